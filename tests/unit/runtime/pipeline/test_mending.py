from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.resume import repair_tables
from raycomp.runtime.scoring.ledger import missing_parts, record_parts
from raycomp.storage.files import write_json
from raycomp.storage.tables import write_rows
from raycomp.storage.tensors import save_tensors


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose search is done: two files of evaluations, an outcome, a deployment."""
    for part in ("ledger-a", "ledger-b"):
        write_rows(tmp_path, "evaluations", [{"run": "r", "arch_id": part}], part)
    record_parts(tmp_path)
    write_json(tmp_path / "search" / "half.sng.0.json", {})
    write_rows(tmp_path, "deployments", [{"run": "r", "method": "yoco"}], "yoco")
    write_json(tmp_path / "deployed.json", {})
    return tmp_path


def mend(run: Path) -> None:
    job = {
        "task": {"name": "demo/polarity"},
        "run": {"methods": ["yoco", "adabert"]},
        "budget": [{"name": "half", "params": "0.5x"}],
    }
    repair_tables(RunContext(parse_job(job), run), Progress(enabled=False))


def test_a_whole_run_is_left_as_it_is(run: Path) -> None:
    before = sorted(run.rglob("*"))
    mend(run)
    assert sorted(run.rglob("*")) == before


def test_evaluations_that_are_gone_open_the_search_again(run: Path) -> None:
    (run / "tables" / "evaluations" / "ledger-a.parquet").unlink()
    assert missing_parts(run) == ["ledger-a.parquet"]
    mend(run)
    assert not (run / "search" / "half.sng.0.json").exists()
    assert not (run / "deployed.json").exists()
    assert missing_parts(run) == []  # once is enough


def test_a_child_whose_evaluation_is_gone_is_scored_again_and_nothing_else(run: Path) -> None:
    for name in ("one", "two"):
        write_rows(run, "evaluations", [{"run": "r", "method": "adabert"}], f"adabert-{name}")
        write_json(run / "adabert" / name / "outcome.json", {})
    write_rows(run, "deployments", [{"run": "r", "method": "adabert"}], "adabert")
    write_json(run / "adabert" / "deployed.json", {})
    record_parts(run)
    (run / "tables" / "evaluations" / "adabert-one.parquet").unlink()
    assert missing_parts(run) == []  # the search's own are whole
    mend(run)
    there = {str(p.relative_to(run)) for p in run.rglob("*.json")}
    assert not there & {"adabert/one/outcome.json", "adabert/deployed.json"}
    assert there >= {"adabert/two/outcome.json", "search/half.sng.0.json", "deployed.json"}


def test_deployments_that_are_gone_are_made_again_without_a_search(run: Path) -> None:
    (run / "tables" / "deployments" / "yoco.parquet").unlink()
    mend(run)
    assert (run / "search" / "half.sng.0.json").exists()
    assert not (run / "deployed.json").exists()


@pytest.mark.parametrize("table", ["steps", "distribution", "evaluations", "deployments"])
def test_a_torn_table_is_named_before_anything_starts(table: str, run: Path) -> None:
    path = write_rows(run, table, [{"run": "r"}], "torn")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"torn\.parquet is corrupted or incomplete") as caught:
        mend(run)
    assert ("write its rows again" in str(caught.value)) == (table in ("evaluations", "deployments"))
    assert (run / "deployed.json").exists()


def test_a_full_disk_is_one_message_where_weights_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: Any, path: str) -> None:
        raise SafetensorError('IoError(Os { code: 28, message: "No space left on device" })')

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match=r"No space left.*Free space"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    assert not list(tmp_path.iterdir())


def test_a_run_of_an_older_version_has_lost_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path, "evaluations", [{"run": "r"}], "ledger-a")
    assert missing_parts(tmp_path) == []

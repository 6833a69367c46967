"""A whole run on real Ray: teacher, super-network, search, deployment, and again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raycomp.config.loader import parse_job
from raycomp.data.batches import collate
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import load_healed
from raycomp.runtime.pipeline.reexport import export_budget
from raycomp.storage.layout import RunLayout
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import part_files, read_table
from raycomp.storage.tensors import load_tensors
from tests.integration.conftest import run_silently


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def tiny_job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    tiny_job["heal"] = {"steps": 6}
    return tiny_job


@pytest.fixture
def run_dir(tiny_job: dict[str, Any], storage: Path) -> Path:
    """The finished tiny run; the first test that asks pays for it."""
    return run_silently(tiny_job, storage)


def test_the_run_has_every_table_and_column(run_dir: Path) -> None:
    for name in ("steps", "distribution", "evaluations", "deployments", "costs"):
        frame = read_table(run_dir, name)
        assert len(frame)
        assert list(frame.columns) == SCHEMAS[name].names
        pattern = str(run_dir / "tables" / name / "*.parquet")
        counted = duckdb.execute("select count(*) from read_parquet(?)", [pattern]).fetchone()
        assert counted == (len(frame),)


def test_steps_are_complete_and_phases_open_in_order(run_dir: Path) -> None:
    steps = read_table(run_dir, "steps")
    yoco = steps[steps["method"] == "yoco"].sort_values("step")
    healing = yoco["training"].str.startswith("heal.")
    assert yoco[healing]["step"].tolist() == list(range(6))
    yoco = yoco[~healing]
    assert yoco["step"].tolist() == list(range(21))
    assert set(yoco["training"]) == {"supernet"}
    assert yoco["phase"].drop_duplicates().tolist() == [
        "largest", "heads-2", "heads-1", "ffn-32", "ffn-16", "depth-2", "depth-1",
    ]  # fmt: skip
    assert yoco[["p_exploit", "entropy", "loss", "tokens", "seconds"]].notna().all().all()


def test_every_deployment_is_within_its_budget_as_loaded(run_dir: Path, tiny_job: dict[str, Any]) -> None:
    rows = read_table(run_dir, "deployments").set_index("budget")
    assert set(rows.index) == {"half", "third"}
    context = RunContext(parse_job(tiny_job), run_dir)
    supernet = context.supernet().eval()
    tokens = context.tokens("selection")
    for budget, row in rows.iterrows():
        assert row["feasible"]
        assert row["cost"] <= row["limit"]
        assert row["parity"] < 1e-5
        folder = run_dir / row["export"]
        assert folder.name == f"yoco-{budget}"
        loaded = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
        assert sum(p.numel() for p in loaded.parameters()) == row["params"]
        batch = collate(tokens, torch.arange(len(tokens)).numpy(), context.pad_id)
        with torch.no_grad():
            arch = Architecture.from_json(row["arch"])
            trained = load_healed(context, supernet, arch)(batch).logits
            whole = loaded.eval()(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                token_type_ids=batch.token_type_ids,
            ).logits
        assert (trained - whole).abs().max() < 1e-5
        assert row["selection"] == row["healed"]
        assert row["inherited"] > 0
        assert row["heal_networks"] in (1, 2)
        assert row["heal_steps"] == 6
        assert row["heal_tokens"] > 0
        assert row["heal_seconds"] > 0
        assert row["retention"] == pytest.approx(row["validation"] / row["teacher_validation"])
        assert row["gap"] == pytest.approx(row["selection"] - row["validation"])
        certificate = json.loads((folder / "certificate.json").read_text())
        assert certificate["params"] == row["params"]


def test_selection_alone_is_searched_and_nothing_is_scored_twice(run_dir: Path) -> None:
    rows = read_table(run_dir, "evaluations")
    assert set(rows["split"]) == {"selection"}
    keys = ["weights_id", "arch_id", "split", "precision", "metric"]
    assert not rows.duplicated(keys).any()
    searched = rows[rows["weights"] == "inherited"]
    healed = rows[rows["weights"] == "healed"]
    assert len(searched) + len(healed) == len(rows)
    assert 2 <= len(healed) <= 4
    dearest = read_table(run_dir, "deployments")["evaluations"].max()
    assert len(searched) <= 1.5 * dearest


def test_a_second_run_finds_everything_done(
    run_dir: Path, tiny_job: dict[str, Any], storage: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*.parquet")}
    assert run_silently(tiny_job, storage) == run_dir
    assert {p: p.stat().st_mtime_ns for p in run_dir.rglob("*.parquet")} == before


def test_a_run_is_not_gone_on_with_on_other_data(
    run_dir: Path, tiny_job: dict[str, Any], storage: Path
) -> None:
    path = Path(tiny_job["task"]["train"])
    kept = path.read_bytes()
    frame = pd.read_csv(path)
    frame.loc[0, "text"] += " more"
    frame.to_csv(path, index=False)
    before = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*") if p.name != ".lock"}
    with pytest.raises(UserError, match=r"data \(.*train\.csv\) changed since .*Restore them"):
        run_silently(tiny_job, storage)
    assert {p: p.stat().st_mtime_ns for p in run_dir.rglob("*") if p.name != ".lock"} == before
    path.write_bytes(kept)
    assert run_silently(tiny_job, storage) == run_dir


def test_a_search_that_was_cut_off_pays_only_for_what_is_missing(
    run_dir: Path, tiny_job: dict[str, Any], storage: Path
) -> None:
    before = read_table(run_dir, "evaluations")
    deployed = read_table(run_dir, "deployments")
    outcomes = list(RunLayout(run_dir).method("yoco").search_outcomes())
    assert len(outcomes) == 2
    for path in (run_dir / "deployed.json", *outcomes):
        path.unlink()
    parts = part_files(run_dir, "evaluations")
    lost_search = next(part for part in parts if part.stem.startswith("ledger-"))
    lost_healing = next(part for part in parts if part.stem.startswith("yoco-healed-"))
    lost_search.unlink()
    lost_healing.unlink()
    num_steps = len(read_table(run_dir, "steps"))
    run_silently(tiny_job, storage)
    after = read_table(run_dir, "evaluations")
    assert set(after["arch_id"]) == set(before["arch_id"])
    assert not after.duplicated(["weights_id", "arch_id", "split", "precision", "metric"]).any()
    again = read_table(run_dir, "deployments")
    assert again["arch"].tolist() == deployed["arch"].tolist()
    assert len(read_table(run_dir, "steps")) == num_steps, "a healed network was healed again"


def test_an_export_can_be_made_again(run_dir: Path, tmp_path: Path) -> None:
    proof = export_budget(run_dir, "half", tmp_path / "half")
    assert proof["parity"] < 1e-5
    first = load_tensors(run_dir / "exports" / "yoco-half" / "model.safetensors")
    again = load_tensors(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(first[k], again[k]) for k in first)
    # The teacher lacks a row in the table.
    assert export_budget(run_dir, "teacher", tmp_path / "teacher")["params"] > proof["params"]
    with pytest.raises(UserError, match="not empty"):
        export_budget(run_dir, "half", tmp_path / "half")
    with pytest.raises(UserError, match="half, third"):
        export_budget(run_dir, "quarter", tmp_path / "x")


@pytest.mark.slow
def test_a_fine_tuned_model_is_the_teacher_as_it_is(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    job = copy.deepcopy(tiny_job)
    job["model"]["name"] = str(tuned_model)
    job["train"]["steps"] = [0, 0, 0, 0, 0, 0, 2]
    job["search"]["evaluations"] = 4
    job["search"]["searchers"] = ["random", "evolution"]
    job["export"] = {"enabled": False}
    run_dir = run_silently(job, tmp_path)
    assert not (run_dir / "exports").exists()
    assert read_table(run_dir, "deployments")["export"].isna().all()
    export_budget(run_dir, "half", tmp_path / "half")
    context = RunContext(parse_job(job), run_dir)
    teacher = context.teacher().state_dict()
    assert all(torch.equal(teacher[k], v) for k, v in context.network().state_dict().items())
    assert len(read_table(run_dir, "deployments")) == 2


def test_an_impossible_budget_is_refused_before_anything_is_written(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    job = copy.deepcopy(tiny_job)
    job["budget"].append({"name": "watch", "encoder_params": "0.01x"})
    with pytest.raises(UserError, match="Nearest"):
        run_silently(job, tmp_path)
    assert list(tmp_path.glob("*")) in ([], [tmp_path / ".cache"])

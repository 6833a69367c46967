"""Tables of runs: complete, unfinished, damaged, moved and repeated ones."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest

from raycomp.errors import UserError
from raycomp.report import load_tables
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import table_dir, write_rows
from tests.unit.report.run_factory import TRIALS, begin_run, write_run


def test_one_run(tmp_path: Path) -> None:
    tables = load_tables(write_run(tmp_path))
    (run,) = tables.runs
    assert tables.deployments["method"].tolist() == ["yoco", "yoco", "adabert", "adabert"]
    assert list(tables.evaluations.columns) == SCHEMAS["evaluations"].names
    assert set(tables.steps["run"]) == {"both-1a2b3c4d"} == {run.name}
    assert (run.metric, run.length, run.teacher_latency_ms) == ("accuracy", 64, 10.0)
    assert run.examples("validation") == [1000]
    assert run.examples("selection") == [500]
    assert run.teacher_score("validation") == 0.84


def test_rows_of_the_distribution_name_their_training_task(tmp_path: Path) -> None:
    theta = load_tables(write_run(tmp_path)).distribution
    assert theta.groupby("training").size().to_dict() == {
        "supernet": 54,
        **{f"adabert-search.{t}": 12 for t in TRIALS},
    }


def test_trials_with_one_file_each_and_the_same_step_are_told_apart(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    rows = [{"run": run.name, "step": 4, "variable": "layers", "choice": str(k), "probability": 0.5}
            for k in (1, 2)]  # fmt: skip
    for part in ("adabert-search.a-s1-000000000", "adabert-search.a-s10-000000000"):
        write_rows(run, "distribution", rows, part)
    both = [{**r, "variable": "depth"} for r in rows]
    write_rows(run, "distribution", both, "supernet-000000000")
    stages = load_tables(run).distribution["training"].tolist()
    assert stages == [*["adabert-search.a-s1"] * 2, *["adabert-search.a-s10"] * 2, *["supernet"] * 2]


def test_a_storage_folder_and_a_run_named_twice(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, "a-11111111"), write_run(tmp_path, "b-22222222")
    (tmp_path / "no-run").mkdir()
    tables = load_tables(tmp_path, first)
    assert [run.name for run in tables.runs] == [first.name, second.name]
    assert len(tables.deployments) == 8
    assert len(tables.of("b-22222222").evaluations) == 60
    assert tables.evaluations["params"].dtype.kind == "i"


def test_a_run_that_has_only_its_settings_has_empty_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "a-11111111")
    run = begin_run(tmp_path, "b-22222222")
    tables = load_tables(run)
    assert all(f.empty for f in (tables.steps, tables.evaluations, tables.deployments))
    assert tables.runs[0].metric is None
    assert tables.runs[0].teacher_score("validation") is None
    assert len(load_tables(tmp_path).deployments) == 4


def test_an_unfinished_file_is_ignored_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    folder = table_dir(run, "evaluations")
    (folder / ".ledger-2.parquet.0123.tmp").write_bytes(b"half")
    assert len(load_tables(run).evaluations) == 60
    (folder / "ledger-2.parquet").write_bytes(b"half")
    with pytest.raises(UserError, match=r"ledger-2\.parquet is corrupted or incomplete"):
        load_tables(run)


def test_a_url_is_read_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "bucket")
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "work"))
    here, there = load_tables(run), load_tables(f"file://{run}")
    pd.testing.assert_frame_equal(here.evaluations, there.evaluations)
    assert [r.name for r in load_tables(f"file://{tmp_path}/bucket").runs] == [run.name]


def test_files_that_appear_and_vanish_during_loading(tmp_path: Path) -> None:
    run, ended = write_run(tmp_path), threading.Event()
    theta = [{"run": run.name, "step": 150, "variable": "depth", "choice": c, "probability": 0.5}
             for c in ("2", "3")]  # fmt: skip

    def write() -> None:  # as an attempt that writes, dies, and is rolled back
        while not ended.wait(0.01):
            path = write_rows(run, "distribution", theta, "supernet-000000100")
            ended.wait(0.01)
            path.unlink()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        stages = [set(load_tables(run).distribution["training"]) for _ in range(5)]
    finally:
        ended.set()
        writer.join()
    assert all("supernet" in s and len(s) == 3 for s in stages)


def test_messages_name_the_missing_file_or_directory(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with pytest.raises(UserError, match="Name at least one run directory"):
        load_tables()
    with pytest.raises(UserError, match=r"contains: both-1a2b3c4d\. Name a run directory"):
        load_tables(tmp_path / "both-1a2b3c4e")
    with pytest.raises(UserError, match="is not a run directory and does not contain one"):
        load_tables(run / "tables")
    (run / "job.json").write_text('{"run": ')
    with pytest.raises(
        UserError, match=r"job\.json cannot be read .* Move it away and run the job again"
    ):
        load_tables(run)
    (run / "job.json").write_text("[]")
    with pytest.raises(UserError, match="does not contain a JSON object"):
        load_tables(run)


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "here")
    shutil.copytree(run, tmp_path / "there" / run.name)
    with pytest.raises(UserError, match="have the same name"):
        load_tables(tmp_path / "here", tmp_path / "there")


def test_several_validation_splits_are_averaged(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    scores = json.loads((run / "teacher" / "score.json").read_text())
    scores["validation_mismatched"] = {"accuracy": 0.80, "loss": 0.5, "examples": 500}
    (run / "teacher" / "score.json").write_text(json.dumps(scores))
    (run,) = load_tables(run).runs
    assert run.examples("validation") == [1000, 500]
    assert run.teacher_score("validation") == pytest.approx(0.82)

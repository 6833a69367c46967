"""A run directory of the version before columns and settings were renamed opens in every reader."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.api.tables import read_rows
from raycomp.cli.main import main
from raycomp.cli.run_output import print_run
from raycomp.report import load_study_results, load_tables, write_report
from raycomp.report.study_measures import rank_table
from raycomp.storage.files import write_json
from tests.unit.report.page_reader import read_page
from tests.unit.report.run_factory import TRIALS, job_settings, write_run
from tests.unit.report.study_factory import write_study

NEW_COLUMNS = {"steps": ["training"], "deployments": ["used_share"]}


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory without the new columns, and with the old name of a setting in job.json."""
    run_dir = write_run(tmp_path_factory.mktemp("old"))
    write_json(run_dir / "job.json", job_settings(train={"block": 10}))
    summary = json.loads((run_dir / "deployed.json").read_text())
    summary["dearest"] = summary.pop("most_expensive")
    write_json(run_dir / "deployed.json", summary)
    for table, columns in NEW_COLUMNS.items():
        for path in (run_dir / "tables" / table).glob("*.parquet"):
            pq.write_table(make_old(pq.read_table(path)).drop_columns(columns), path)
    return run_dir


def make_old(rows: pa.Table) -> pa.Table:
    """Write the training task into `phase` where a training has no phases, as old runs did."""
    if "training" not in rows.column_names:
        return rows
    phases = [
        phase or training
        for phase, training in zip(rows["phase"].to_pylist(), rows["training"].to_pylist(), strict=True)
    ]
    return rows.set_column(rows.column_names.index("phase"), "phase", pa.array(phases, pa.string()))


def test_the_columns_that_the_files_lack_are_filled_in(old_run: Path) -> None:
    steps = load_tables(old_run).steps
    assert set(steps["training"]) == {
        "teacher",
        "supernet",
        *(f"{task}.{trial}" for task in ("adabert-search", "adabert-child") for trial in TRIALS),
    }
    phases = steps[steps["training"] == "supernet"]["phase"]
    assert set(phases) == {"largest", "heads-8", "depth-3"}


def test_old_settings_have_their_new_names(old_run: Path) -> None:
    (run,) = load_tables(old_run).runs
    assert run.setting("train", "sampler_sync_steps") == 10


def test_the_page_shows_every_training_and_the_summary(old_run: Path, tmp_path: Path) -> None:
    page = read_page(write_report(old_run, tmp_path / "report.html"))
    titles = [plot["aria-label"] for plot in page.all("div") if plot.get("class") == "plot"]
    for title in ("Loss: teacher", "Loss: super-network", "Loss: AdaBERT's search"):
        assert title in titles
    assert "used_share" in page.text


def test_the_terminal_shows_the_used_share(old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deployments = load_tables(old_run).deployments
    half = deployments[deployments["budget"] == "half"].iloc[0]
    print_run(old_run, False)
    printed = capsys.readouterr().out
    assert f"{half['cost'] / half['limit']:.2f}" in printed
    assert "60 evaluations for 2 budgets (most expensive budget: 40)" in printed


def test_query_filters_the_old_table(
    old_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ["query", str(old_run), "--where", "budget == 'half' and validation > 0.8"]
    monkeypatch.setattr(sys, "argv", ["raycomp", *query])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert not exit_status.value.code
    assert "encoder_params" in capsys.readouterr().out


def test_an_old_run_of_one_method_opens(old_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / old_run.name
    shutil.copytree(old_run, run_dir)
    shutil.rmtree(run_dir / "adabert")
    (run_dir / "tables" / "deployments" / "adabert.parquet").unlink()
    (run,) = load_tables(run_dir).runs
    assert list(run.searches) == ["yoco"]
    assert run.teacher_latency_ms == 10.0


def test_the_json_of_an_old_run_has_the_keys_of_today(
    old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(old_run, True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["yoco"]["most_expensive"] == 40
    assert "dearest" not in printed["yoco"]
    assert "search" not in printed


def test_an_old_study_opens(tmp_path: Path) -> None:
    """It called its runs cells, and the score after a network's own training had the method "alone"."""
    new = write_study(tmp_path / "new", predictions=False)
    old = tmp_path / "old" / new.name
    shutil.copytree(new, old)
    data = json.loads((old / "study.json").read_text())
    write_json(old / "study.json", {**data, "cells": data.pop("runs")})
    for path in (old / "tables" / "ablations").glob("*.parquet"):
        rows = pq.read_table(path)
        methods = ["alone" if name == "retrained" else name for name in rows["method"].to_pylist()]
        place = rows.column_names.index("method")
        pq.write_table(rows.set_column(place, "method", pa.array(methods, pa.string())), path)

    assert load_study_results(old).num_runs == load_study_results(new).num_runs > 0
    ranks = rank_table(new)
    pd.testing.assert_frame_equal(rank_table(old), ranks)
    assert len(ranks)
    assert len(read_rows(old, "ablations", "method == 'retrained'"))

"""The overview of a job: printed by `plan`, and stored and printed by `run`."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raycomp.cli.output import print_plan
from raycomp.cli.run_output import print_run
from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.overview import make_overview, show_overview
from raycomp.runtime.pipeline.plan import make_plan
from raycomp.runtime.studies.stage_timer import StageTimer
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from tests.unit.report.run_factory import write_run


def make_context(settings: dict[str, Any], run_dir: Path) -> RunContext:
    context = RunContext(parse_job(settings), run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    return context


def test_the_overview_has_classes_lengths_and_unknown_tokens(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    overview = make_overview(make_context(tiny_job, tmp_path / "run"))
    titles = [row.title for row in overview.rows]
    assert titles[:4] == ["task", "train", "selection", "validation"]
    assert {"shared rows", "length", "cut texts", "unknown"} <= set(titles)
    assert sum(overview.figures["classes"]["train"].values()) == 180
    assert overview.figures["cut"] == {"train": 0.0, "validation": 0.0}

    tiny_job["task"]["max_length"] = 5
    cut = make_overview(make_context(tiny_job, tmp_path / "cut"))
    assert cut.figures["cut"]["train"] > 0.5
    assert any("task.max_length = 16" in warning for warning in cut.warnings)


def test_word_replacement_is_part_of_it_only_for_methods_that_use_it(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    for methods, copies, has_row in (["yoco"], 4, False), (["adabert"], 4, True), (["adabert"], 0, False):
        job = copy.deepcopy(tiny_job)
        job["run"]["methods"] = methods
        job["augment"] = {"copies": copies, "candidates": 3}
        overview = make_overview(make_context(job, tmp_path / f"{methods[0]}{copies}"))
        assert ("replaceable" in overview.figures) is has_row


def test_a_run_stores_the_overview_once_and_prints_it(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path / "run")
    stream = io.StringIO()
    show_overview(context, Progress(console=Console(file=stream)))
    assert stream.getvalue().startswith("Data and teacher\n  task ")
    stored = context.layout.overview.read_text()
    assert json.loads(stored)["figures"]["classes"]["validation"] == {"bad": 30, "good": 30}

    context.layout.overview.write_text(stored.replace("tokens in train", "as it was stored"))
    again = io.StringIO()
    show_overview(context, Progress(console=Console(file=again)))
    assert "as it was stored" in again.getvalue()

    context.layout.overview.write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        show_overview(context, Progress(console=Console(file=again)))


def test_the_runs_of_a_study_do_not_repeat_it(
    tiny_job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = make_context(tiny_job, tmp_path / "run")
    show_overview(context, StageTimer(context.run_dir))
    assert context.layout.overview.exists()
    assert capsys.readouterr().err == ""


def test_plan_prints_it_and_has_it_as_json(
    tiny_job: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    plan = make_plan(parse_job(tiny_job))
    assert json.loads(json.dumps(plan))["overview"]["figures"]["rows"]["validation"] == 60
    print_plan(plan)
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("Data and teacher") + 1].startswith("  task ")


def test_the_table_of_a_run_repeats_its_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path)
    overview = {"rows": [], "warnings": ["Texts are cut."], "notes": ["A note."], "figures": {"cut": 1}}
    write_json(RunLayout(run).overview, overview)
    print_run(run, False)
    text = capsys.readouterr().out
    assert "Warning    Texts are cut." in text
    assert "A note." not in text
    print_run(run, True)
    assert json.loads(capsys.readouterr().out)["overview"] == overview

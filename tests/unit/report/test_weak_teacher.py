"""A weak teacher is named: at chance, still learning at the end, or beaten by a compressed network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycomp.cli.run_output import print_run
from raycomp.report.loading import load_tables
from raycomp.report.page import write_report
from raycomp.report.predictions import Predictions
from raycomp.report.weak_teacher import find_teacher_warnings, is_better, is_still_learning
from raycomp.storage.files import read_json, write_array, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import write_rows
from tests.unit.report.run_factory import write_run

CLASSES = 20
ROWS = 1000
LABELS = np.arange(ROWS) % CLASSES


def falling(start: float, end: float, steps: int = 120) -> np.ndarray:
    return np.linspace(start, end, steps)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (falling(3.0, 2.2), True),
        # It has learned its task: the loss is below half of the constant answer's.
        (falling(3.0, 0.1), False),
        # Many classes: a quarter of the constant answer's loss is still far from the labels.
        (falling(2.0, 1.2), True),
        (falling(2.0, 0.3), False),
        # It is as far as it comes.
        (np.r_[falling(3.0, 2.2), np.full(240, 2.2)], False),
        # Too few steps to compare.
        (falling(3.0, 2.2, 20), False),
        # It rises.
        (falling(2.2, 3.0), False),
    ],
)
def test_a_training_that_ended_too_early(losses: np.ndarray, expected: bool) -> None:
    assert is_still_learning(losses, math.log(CLASSES)) is expected
    assert not is_still_learning(losses, 0.0)


def answers(share_correct: float, seed: int = 0) -> np.ndarray:
    """Return outputs on all rows of which a share is correct."""
    is_correct = np.random.default_rng(seed).permutation(ROWS) < share_correct * ROWS
    return np.eye(CLASSES)[np.where(is_correct, LABELS, (LABELS + 1) % CLASSES)]


def predictions(share_correct: float, seed: int = 0) -> Predictions:
    return Predictions((LABELS,), (answers(share_correct, seed),))


def test_only_a_difference_above_the_noise_counts() -> None:
    teacher = predictions(0.80)
    assert is_better("accuracy", predictions(0.90, 1), teacher, 1)
    assert not is_better("accuracy", predictions(0.805, 1), teacher, 1)
    assert not is_better("accuracy", predictions(0.70, 1), teacher, 1)


def test_the_best_of_many_networks_needs_a_larger_lead() -> None:
    """One network that is 4 points ahead is better; the best of a thousand can be so by chance."""
    teacher = predictions(0.80)
    ahead = predictions(0.84, 1)
    assert is_better("accuracy", ahead, teacher, 1)
    assert not is_better("accuracy", ahead, teacher, 1000)


def make_run(
    tmp_path: Path,
    teacher: float,
    network: float,
    losses: np.ndarray | None = None,
    figures: dict[str, Any] | None = None,
) -> Path:
    """Return a run whose teacher and network `yoco-half` have these validation scores."""
    run = write_run(tmp_path)
    layout = RunLayout(run)
    scores = read_json(layout.teacher_score)
    scores["validation"] = {"accuracy": teacher, "loss": 1.0, "examples": ROWS}
    write_json(layout.teacher_score, scores)
    write_array(layout.predictions("labels", "selection"), LABELS)
    write_array(layout.predictions("labels", "validation"), LABELS)
    write_array(layout.predictions("teacher", "validation"), answers(teacher))
    write_array(layout.predictions("yoco-half", "validation"), answers(network, 1))

    (part,) = (run / "tables" / "deployments").glob("yoco*")
    rows = load_tables(run).deployments
    rows = rows[rows["method"] == "yoco"].to_dict("records")
    for row in rows:
        row["validation"] = network if row["budget"] == "half" else network - 0.1
    part.unlink()
    write_rows(run, "deployments", [clean(row) for row in rows], "yoco")
    for path in (run / "tables" / "deployments").glob("adabert*"):
        path.unlink()

    if losses is not None:
        for path in (run / "tables" / "steps").glob("teacher*"):
            path.unlink()
        steps = [
            {"run": run.name, "method": "teacher", "training": "teacher", "step": step,
             "epoch": step / 40, "loss": float(loss), "tokens": 1}
            for step, loss in enumerate(losses)
        ]  # fmt: skip
        write_rows(run, "steps", steps, "teacher-000000000")
    if figures is not None:
        write_json(layout.overview, {"rows": [], "warnings": [], "notes": [], "figures": figures})
    return run


def clean(row: dict[Any, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None and value == value}


def warnings_of(run: Path) -> list[str]:
    tables = load_tables(run)
    return find_teacher_warnings(tables, tables.runs[0])


def test_a_good_teacher_gets_no_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0.90, 0.88, falling(3.0, 0.1))
    assert warnings_of(run) == []
    write_report(run, tmp_path / "page.html")
    assert "Train the teacher longer" not in (tmp_path / "page.html").read_text()


def test_a_teacher_that_is_still_learning_is_named_with_its_length(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0.50, 0.40, falling(3.0, 2.2))
    (text,) = warnings_of(run)
    assert "still learning when its training ended after 120 steps" in text
    assert "fell from 2.60 to 2.33 in the last third" in text
    assert "a constant answer has 3.00" in text
    assert "set teacher.epochs = 6 (it was 3)" in text


def test_a_teacher_at_chance_is_named(tmp_path: Path) -> None:
    (text,) = warnings_of(make_run(tmp_path, 0.05, 0.04, falling(3.0, 3.0)))
    assert "at chance: its validation score 0.050" in text
    assert "set teacher.epochs = 6" in text


def test_a_network_that_beats_its_teacher_is_named_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, 0.54, 0.81, falling(3.0, 0.1))
    (text,) = warnings_of(run)
    assert "yoco half has validation 0.810, the teacher 0.540" in text
    print_run(run, False)
    assert "Warning A compressed network is better" in " ".join(capsys.readouterr().out.split())
    print_run(run, True)
    assert text.split(".")[0] in capsys.readouterr().out
    write_report(run, tmp_path / "page.html")
    assert (
        "<strong>Warning:</strong> A compressed network is better" in (tmp_path / "page.html").read_text()
    )


def test_equal_networks_are_not_named(tmp_path: Path) -> None:
    assert warnings_of(make_run(tmp_path, 0.80, 0.805)) == []


def test_a_given_teacher_gets_other_advice(tmp_path: Path) -> None:
    run = make_run(tmp_path, 0.54, 0.81, figures={"teacher": {"is_given": True}})
    (text,) = warnings_of(run)
    assert "teacher.mode = 'train'" in text
    assert "teacher.epochs" not in text


def test_a_run_without_outputs_has_no_warning(tmp_path: Path) -> None:
    assert warnings_of(write_run(tmp_path)) == []

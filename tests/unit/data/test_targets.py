"""Targets of a regression that cannot be learned are refused with the reason."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data.overview import describe_task
from raycomp.data.tasks import Task, load_task
from raycomp.errors import UserError
from tests.unit.data.test_files import text

DAY = datetime.datetime(2024, 1, 1)
NUM_ROWS = 60


def load(path: Path, **changes: Any) -> Task:
    settings = {"train": str(path), "text": ["text"], "label": "label", "kind": "regression", **changes}
    return load_task(TaskSettings(**settings), 0)


def write_csv(path: Path, labels: list[str]) -> Path:
    lines = [f"{text(row)},{label}" for row, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def write_parquet(path: Path, labels: pa.Array) -> Path:
    pq.write_table(pa.table({"text": [text(row) for row in range(len(labels))], "label": labels}), path)
    return path


REFUSED: dict[str, tuple[list[str], str]] = {
    "seconds since 1970": ([str(1_700_000_000 + n) for n in range(NUM_ROWS)], "Subtract a constant"),
    "a large offset": ([str(10**12 + 7 * n) for n in range(NUM_ROWS)], "Subtract a constant"),
    "just too large": ([str(2**24 + n) for n in range(NUM_ROWS)], "Subtract a constant"),
    "one number": (["3"] * NUM_ROWS, "All rows of train have the label 3"),
    "beyond fp32": ([f"{n}e39" for n in range(1, NUM_ROWS + 1)], "row 0: label '1e39' is not a finite"),
    "negative beyond fp32": (["1", "-1e39", *["2"] * (NUM_ROWS - 2)], "row 1: label '-1e39'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_targets_that_cannot_be_learned_are_refused(name: str, tmp_path: Path) -> None:
    labels, words = REFUSED[name]
    with pytest.raises(UserError) as error:
        load(write_csv(tmp_path / "rows.csv", labels))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [
        [str(180_000 + 137 * n) for n in range(NUM_ROWS)],
        [str(1_000_000 + n) for n in range(NUM_ROWS)],
        [str(n % 2) for n in range(NUM_ROWS)],
        [f"{n}e37" for n in range(1, 31)] * 2,
    ],
)
def test_other_large_targets_are_learned(labels: list[str], tmp_path: Path) -> None:
    task = load(write_csv(tmp_path / "rows.csv", labels))
    expected = np.array(sorted(float(label) for label in labels))
    splits = (task.train, task.selection, *task.validation)
    assert np.allclose(np.sort(np.concatenate([split.labels for split in splits])), expected)

    # The overview has finite figures for them.
    assert (
        "inf" not in describe_task(task, TaskSettings(train="x", text=["text"], label="y")).rows[1].text
    )


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([DAY + datetime.timedelta(hours=n) for n in range(NUM_ROWS)]),
        pa.array([DAY + datetime.timedelta(hours=n) for n in range(NUM_ROWS)], pa.timestamp("s", "UTC")),
        pa.array([datetime.timedelta(days=n) for n in range(NUM_ROWS)]),
        pa.array([DAY.date() + datetime.timedelta(days=n) for n in range(NUM_ROWS)]),
    ],
)
def test_times_are_not_numbers(labels: pa.Array, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 0: label .*Regression needs numbers"):
        load(write_parquet(tmp_path / "rows.parquet", labels))


def test_classes_of_a_regression_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", [str(number) for number in range(NUM_ROWS)])
    with pytest.raises(UserError, match=r"task\.labels names classes, but this task is a regression"):
        load(path, labels=["0", "1"])

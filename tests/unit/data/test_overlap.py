"""Held-out rows that are also training rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data.tasks import Task, load_task
from raycomp.errors import UserError

TRAIN = pd.DataFrame(
    {"a": [f"A text number {i}" for i in range(80)], "b": "other", "label": ["x", "y"] * 40}
)
NEW = TRAIN[:40].assign(a=lambda frame: "New " + frame["a"])


def load(tmp_path: Path, held_out: pd.DataFrame, text: list[str], **changes: Any) -> Task:
    TRAIN.to_csv(tmp_path / "train.csv", index=False)
    held_out.to_csv(tmp_path / "held_out.csv", index=False)
    paths = {"train": str(tmp_path / "train.csv"), "validation": str(tmp_path / "held_out.csv")}
    return load_task(TaskSettings(**{**paths, "text": text, "label": "label", **changes}), 0)


CHANGES: dict[str, Callable[[str], str]] = {
    "as they are": lambda text: text,
    "in capitals": str.upper,
    "with a blank at the end": lambda text: f"{text} ",
    "with other blanks": lambda text: text.replace(" ", "\t  "),
    "without blanks": lambda text: text.replace(" ", ""),
}


@pytest.mark.parametrize("text", [["a"], ["a", "b"]])
@pytest.mark.parametrize("name", CHANGES)
def test_a_split_of_training_rows_is_refused(name: str, text: list[str], tmp_path: Path) -> None:
    same = TRAIN[:50].assign(a=lambda frame: frame["a"].map(CHANGES[name]))
    held_out = pd.concat([same, NEW])
    with pytest.raises(
        UserError, match=r"50 of 90 rows of validation are also in train.*allow_shared_rows"
    ):
        load(tmp_path, held_out, text)
    allowed = load(tmp_path, held_out, text, allow_shared_rows=True)
    assert allowed.shared_rows == {"validation": 50}


def test_a_smaller_share_is_counted(tmp_path: Path) -> None:
    task = load(tmp_path, pd.concat([TRAIN[:3], NEW]), ["a"])
    assert task.shared_rows == {"validation": 3}
    assert load(tmp_path, NEW, ["a"]).shared_rows == {"validation": 0}


def test_a_pair_is_shared_only_if_both_texts_are(tmp_path: Path) -> None:
    task = load(tmp_path, TRAIN.assign(b="new"), ["a", "b"])
    assert task.shared_rows == {"validation": 0}


def test_splits_of_a_benchmark_are_not_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sentence": [f"s {i}" for i in range(40)], "label": [0, 1] * 20})
    for split in ("train", "validation"):
        frame.to_parquet(tmp_path / f"{split}.parquet")
    task = load_task(TaskSettings(name="glue/sst2", folder=str(tmp_path)), 0)
    assert task.shared_rows == {"validation": 40}

"""Rows without labels: the test splits of GLUE, a split of a Hub dataset, or a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data.file_rows import FileRows, select_columns
from raycomp.data.files import read_file
from raycomp.data.glue_files import find_diagnostic, read_glue_folder
from raycomp.data.sources import GLUE, read_hub_splits
from raycomp.data.tasks import Split, check_texts
from raycomp.errors import UserError

GLUE_TEST_SPLITS = {"mnli": ("test_matched", "test_mismatched")}
"""Test splits of the GLUE tasks that have other names than "test"."""

DIAGNOSTIC = "ax"
"""GLUE's diagnostic rows, which a classifier of MNLI predicts."""


@dataclass(frozen=True)
class UnlabelledRows:
    """Texts without labels.

    Attributes:
        name: Name of the split or of the file.
        texts: The texts; all labels are 0.
        index: The number of each row in its file, which a submission repeats.
        is_glue_test: Whether it is a test split of GLUE, whose predictions its server reads. A file of
            the user's never is one, also if it has the name of one.
        notes: Sentences for the user about how the file was read.
    """

    name: str
    texts: Split
    index: list[Any]
    is_glue_test: bool = False
    notes: tuple[str, ...] = ()


def read_test_rows(settings: TaskSettings, split: str) -> list[UnlabelledRows] | None:
    """Return the rows of a split that the run itself does not use; None if the task lacks it.

    Args:
        settings: Section [task] of the run.
        split: Name of the split, such as "test". All test splits of MNLI are read, and the diagnostic
            rows of GLUE where they exist.

    Raises:
        UserError: The files of the split are missing or damaged.
    """
    name = str(settings.name)
    if settings.name is None or name.startswith("demo/"):
        return None
    if name.startswith("glue/"):
        return _read_glue(settings, name.removeprefix("glue/")) if split == "test" else None

    dataset, _, config = name.partition(":")
    raw = read_hub_splits(dataset, config or None, [split])
    if split not in raw:
        return None
    return [_make_rows(split, raw[split], settings.text, f"{name} {split}")]


def read_unlabelled_file(settings: TaskSettings, path: Path) -> UnlabelledRows:
    """Return the rows of a file with the text columns of a task.

    Raises:
        UserError: The file is missing or damaged, or lacks a text column.
    """
    columns = settings.text
    name = str(settings.name)
    if name.startswith("glue/"):
        columns = list(GLUE[name.removeprefix("glue/")].text)
    # The labels of the file, if it has them, are not used, but they tell a row from a part of a text.
    rows = read_file(path, label=settings.label)
    # The demo's tasks have one text.
    return _make_rows(path.stem, rows, columns or ["text"], str(path))


def _read_glue(settings: TaskSettings, task: str) -> list[UnlabelledRows]:
    splits = GLUE_TEST_SPLITS.get(task, ("test",))
    text = list(GLUE[task].text)
    # The Hub has the diagnostic rows in a configuration of their own, and archives in a folder.
    if settings.folder is None:
        raw = read_hub_splits("nyu-mll/glue", task, list(splits))
        if task == "mnli":
            raw[DIAGNOSTIC] = read_hub_splits("nyu-mll/glue", DIAGNOSTIC, ["test"])["test"]
    else:
        folder = Path(settings.folder)
        raw = read_glue_folder(folder, task, splits)
        diagnostic = find_diagnostic(folder) if task == "mnli" else None
        if diagnostic is not None:
            raw[DIAGNOSTIC] = diagnostic
    parts = [_make_rows(name, rows, text, f"glue/{task} {name}") for name, rows in raw.items()]
    return [replace(part, is_glue_test=True) for part in parts]


def _make_rows(name: str, rows: FileRows, text: list[str], where: str) -> UnlabelledRows:
    """Return checked texts with the numbers of their rows."""
    frame = select_columns(rows, text, None, where)
    check_texts(frame, name, paired=len(text) > 1)
    second = frame["b"].astype(str).tolist() if len(text) > 1 else None
    # The labels are not read: test rows have -1, or none at all.
    texts = Split(name, frame["a"].astype(str).tolist(), second, np.zeros(len(frame), np.int64))
    return UnlabelledRows(name, texts, _row_numbers(rows.frame), notes=rows.notes)


def _row_numbers(frame: pd.DataFrame) -> list[Any]:
    """Return the column that numbers the rows ("idx" on the Hub, "index" in GLUE's files), or 0, 1, 2."""
    for column in ("idx", "index", "id"):
        if column in frame.columns and frame[column].is_unique and frame[column].notna().all():
            return [str(value) for value in frame[column]]
    return [str(number) for number in range(len(frame))]


def unknown_split_message(run: str, task: str, split: str, splits: list[str]) -> UserError:
    """Return the error for a split that neither the run nor its task has."""
    return UserError(
        f"Run {run} lacks the split {split!r}: its task {task} has the splits {', '.join(splits)}. Name "
        "one of them, or a file with --data."
    )

"""Reader of the GLUE tasks from a folder, in the layout of the Hub or of GLUE's TSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from raycomp.data.file_rows import FileRows
from raycomp.data.files import read_table
from raycomp.errors import UserError

# File names of each split without suffix: on the Hub, and in GLUE's archives.
_STEMS = {
    "train": ("train",),
    "validation": ("validation", "dev"),
    "validation_matched": ("validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
    "test": ("test",),
    "test_matched": ("test_matched",),
    "test_mismatched": ("test_mismatched",),
    "diagnostic": ("diagnostic", "test"),
}

# Folders of the diagnostic rows, in GLUE's archives and on the Hub.
_DIAGNOSTIC_FOLDERS = ("diagnostic", "ax")

# The Hub writes the second suffix.
_SUFFIXES = (".parquet", "-00000-of-00001.parquet", ".tsv")

# Columns of GLUE's TSV files, and their names on the Hub.
_HUB_NAMES = {
    "gold_label": "label",
    "Quality": "label",
    "score": "label",
    "is_duplicate": "label",
    "#1 String": "sentence1",
    "#2 String": "sentence2",
}


def read_glue_folder(folder: Path, task: str, splits: Sequence[str]) -> dict[str, FileRows]:
    """Read splits of a GLUE task, with the column names of the Hub.

    Some rows of QQP's TSV files were cut in two by a line break inside of a question. They are left out
    and counted in a note, as the Hub does.

    Args:
        folder: Folder of the task, or of several tasks with one sub-folder each.
        task: Short name of the task, such as "sst2".
        splits: Names of the splits on the Hub.

    Raises:
        UserError: The folder or the file of a split is missing, or a file is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"task.folder = {folder} is not a directory. Check the path.")

    task_folder = folder
    for path in folder.iterdir():
        if path.is_dir() and path.name.lower().replace("-", "") == task:
            task_folder = path
            break
    return {split: _read_split(task_folder, split, task) for split in splits}


def find_diagnostic(folder: Path) -> FileRows | None:
    """Return GLUE's diagnostic rows, which belong to MNLI; None if the folder of all tasks lacks them.

    Raises:
        UserError: The file is damaged.
    """
    for path in sorted(folder.iterdir()):
        is_named = path.is_dir() and path.name.lower() in _DIAGNOSTIC_FOLDERS
        if is_named and _find_file(path, "diagnostic") is not None:
            return _read_split(path, "diagnostic", "mnli")
    return None


def _find_file(folder: Path, split: str) -> Path | None:
    return next((path for path in _list_candidates(folder, split) if path.exists()), None)


def _list_candidates(folder: Path, split: str) -> list[Path]:
    return [folder / f"{stem}{suffix}" for stem in _STEMS[split] for suffix in _SUFFIXES]


def _read_split(folder: Path, split: str, task: str) -> FileRows:
    path = _find_file(folder, split)
    if path is None:
        names = ", ".join(candidate.name for candidate in _list_candidates(folder, split))
        raise UserError(f"task.folder = {folder} lacks the split {split}. Add one of the files {names}.")

    if path.suffix == ".tsv" and task == "cola" and split != "test":
        # GLUE's file of this task lacks a header.
        rows = read_table(path, has_header=False)
        if len(rows.columns) == 4 and "sentence" not in rows.frame.iloc[0].tolist():
            frame = rows.frame.set_axis(["source", "label", "mark", "sentence"], axis=1)
            return _as_rows(frame, rows)

    rows = read_table(path)
    names_by_column = dict(_HUB_NAMES)
    if task == "mnli":
        names_by_column |= {"sentence1": "premise", "sentence2": "hypothesis"}
    missing = {old: new for old, new in names_by_column.items() if new not in rows.columns}
    return _as_rows(rows.frame.rename(columns=missing), rows)


def _as_rows(frame: pd.DataFrame, source: FileRows) -> FileRows:
    """Return rows with other column names and the notes of their source."""
    return FileRows(frame, tuple(map(str, frame.columns)), source.notes)

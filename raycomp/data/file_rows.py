"""The rows of a data file, and the choice of its columns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from raycomp.data.labels import plain_form
from raycomp.errors import UserError, shown

# Characters that separate the columns of other files -> what to do.
_OTHER_DELIMITERS = {
    ";": "Write the file with commas.",
    "\t": "Name the file .tsv, or write it with commas.",
    ",": "Name the file .csv, or write it with tabs.",
    "|": "Write the file with commas.",
}


@dataclass(frozen=True)
class FileRows:
    """Rows of a file.

    Attributes:
        frame: One column per column of the file, or those that were asked for.
        columns: Names of all columns of the file.
        notes: Sentences for the user about how the file was read.
        classes: Class names in order, if the source knows them; else empty.
    """

    frame: pd.DataFrame
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def select_columns(rows: FileRows, text: list[str], label: str | None, where: str) -> pd.DataFrame:
    """Return the text and label columns as a, b and label; without a label column, labels are missing.

    Raises:
        UserError: A column is missing. The message names the column with the most similar name.
    """
    frame = rows.frame
    needed = [*text, *([label] if label is not None else [])]
    for column in needed:
        if column not in frame.columns:
            names = list(rows.columns)
            hint = _explain_missing(column, names, where, all(name not in names for name in needed))

            raise UserError(
                f"{where} lacks the column '{shown(column)}'.{hint} Columns: "
                f"{shown(', '.join(names[:30]), 1000)}."
            )

    second = pd.Series([None] * len(frame), dtype=object)
    if len(text) > 1:
        second = frame[text[1]]
    labels = None if label is None else frame[label].array
    selected = {"a": frame[text[0]].array, "b": second.array, "label": labels}
    try:
        return pd.DataFrame(selected)
    except UnicodeEncodeError:
        # Text columns of pandas cannot have half a character. The check of the cells names its row.
        return pd.DataFrame(selected, dtype=object)


def _explain_missing(column: str, names: Sequence[str], where: str, lacks_all: bool) -> str:
    """Return the probable reason why a file lacks a column, as a sentence after a blank, or "".

    Args:
        column: Name of the column.
        names: Names of the columns of the file.
        where: Name of the file or split.
        lacks_all: Whether the file also lacks all other columns that the task needs.
    """
    is_delimited = where.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    other = next((sign for sign in _OTHER_DELIMITERS if len(names) == 1 and sign in names[0]), None)
    if is_delimited and other is not None:
        remedy = _OTHER_DELIMITERS[other]
        return f" Its columns seem to be separated by {other!r}. {remedy}"

    for name in names:
        if plain_form(name) == plain_form(column):
            return (
                f" Did you mean '{shown(name)}'? It differs only in case, blanks or invisible characters."
            )

    near = difflib.get_close_matches(column, names, n=1)
    if near:
        return f" Did you mean '{shown(near[0])}'?"
    if is_delimited and lacks_all:
        return " The first line of the file must have the names of the columns."
    return ""


def check_same_columns(path: Path, parts: Mapping[Path, FileRows], needed: Sequence[str]) -> None:
    """Refuse part files without a column that other part files have: their rows would be lost.

    Args:
        path: Path of the directory.
        parts: Path of each part file -> its rows.
        needed: Names of the columns that are read.

    Raises:
        UserError: A part file lacks such a column.
    """
    for column in needed:
        lacking = [file for file, rows in parts.items() if column not in rows.columns]
        if lacking and len(lacking) < len(parts):
            names = shown(", ".join(parts[lacking[0]].columns[:30]), 1000)
            raise UserError(
                f"File {lacking[0]} lacks the column '{shown(column)}', which other files of directory "
                f"{path} have. Columns: {names}. Give each part file the same columns, and each CSV or "
                "TSV file a first line with their names."
            )

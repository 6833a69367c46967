"""A table of short texts, which the terminal, the page and the documents print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """A table of short texts.

    Attributes:
        title: Title of the table.
        columns: Names of the columns.
        rows: Texts of each row.
        named: Number of columns that name a row; the others are figures.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    named: int = 1

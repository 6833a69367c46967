"""Rows of a CSV or TSV file with fewer fields than the header, and texts that an unquoted comma cuts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from raycomp.data.quotes import Place
from raycomp.errors import shown

# Share of the rows of a GLUE file that may have too few fields.
MAX_SHORT_SHARE = 0.01

# Least share of rows with a blank after a text that is worth a note.
MIN_BLANK_SHARE = 0.01

# Fewest rows with a blank after a text that show that the texts are cut.
MIN_CUT_ROWS = 3


class RowWidths:
    """Counts short rows, and rows whose text seems to continue in the next column.

    A short row is probably a row whose last cells are empty. It may also be the only complete one: if a
    comma in a text is not in quotes, the words after the comma fill a column that the other rows lack.

    Args:
        names: Names of the columns.
        texts: Names of the text columns that are read.
        has_quotes: Whether the file is CSV, in which quotes keep a comma in its field.
        skip: Whether a short row is left out, as in the files of GLUE.
    """

    def __init__(
        self, names: Sequence[str], texts: Sequence[str], *, has_quotes: bool, skip: bool
    ) -> None:
        self._names = names
        self._has_quotes = has_quotes
        self._skip = skip
        self._num_short = 0
        self._first_short: Place | None = None
        # Only in CSV files a blank shows that a text continues: people write one after a comma.
        pairs = enumerate(itertools.pairwise(names))
        self._after_text = [
            _AfterText(position, text, column)
            for position, (text, column) in pairs
            if has_quotes and text in texts and column not in texts
        ]

    def add(self, place: Place, fields: Sequence[str]) -> bool:
        """Count a row, and return whether it is kept.

        Args:
            place: Place of the row.
            fields: Its fields, at most as many as names.
        """
        if len(fields) < len(self._names):
            self._num_short += 1
            self._first_short = self._first_short or place
            if self._skip:
                return False
        for columns in self._after_text:
            columns.add(place, fields)
        return True

    def describe(self, num_rows: int) -> list[str]:
        """Return the notes about the rows.

        Args:
            num_rows: Number of rows that are kept.

        Raises:
            ValueError: Too many rows would be left out, or texts are cut at a comma.
        """
        if self._num_short and self._skip:
            return [self._describe_skipped(num_rows + self._num_short)]

        notes = []
        for columns in self._after_text:
            if self._num_short and columns.are_cut:
                raise columns.refusal(num_rows)
            notes += columns.describe(num_rows)

        if self._num_short:
            remedy = "each comma in a text is in quotes" if self._has_quotes else "texts lack tabs"
            notes.append(
                f"{self._num_short:,} of {num_rows:,} rows have fewer than {len(self._names)} fields; "
                f"the first is {self._first_short}. Their last cells are empty. Check that {remedy}"
            )
        return notes

    def _describe_skipped(self, total: int) -> str:
        if self._num_short > max(2, MAX_SHORT_SHARE * total):
            raise ValueError(f"{self._num_short:,} of {total:,} rows have fewer fields than the header")
        return (
            f"{self._num_short:,} of {total:,} rows have fewer than {len(self._names)} fields and are "
            "left out"
        )


class _AfterText:
    """Cells of the column after a text.

    Args:
        position: Position of the text column.
        text: Its name.
        column: Name of the next column.
    """

    def __init__(self, position: int, text: str, column: str) -> None:
        self._position = position
        self._text = text
        self._column = column
        self._num_rows = 0
        self._num_lacking = 0
        self._num_filled = 0
        self._num_blank = 0
        self._num_blank_texts = 0
        self._first_blank: Place | None = None

    def add(self, place: Place, fields: Sequence[str]) -> None:
        """Count a row with at most as many fields as the header."""
        self._num_rows += 1
        self._num_blank_texts += self._position < len(fields) and fields[self._position].startswith(" ")
        if self._position + 1 >= len(fields):
            self._num_lacking += 1
            return

        cell = fields[self._position + 1]
        if not cell.strip():
            return
        self._num_filled += 1
        if cell.startswith(" "):
            self._num_blank += 1
            self._first_blank = self._first_blank or place

    @property
    def are_cut(self) -> bool:
        """Whether some rows lack this column, and in all others it begins with a blank."""
        is_each = self._num_blank == self._num_filled >= MIN_CUT_ROWS
        return is_each and self._num_lacking > 0 and not self._has_style

    @property
    def _has_style(self) -> bool:
        """Whether the file has a blank after each comma."""
        return self._column.startswith(" ") or 2 * self._num_blank_texts > self._num_rows

    def refusal(self, num_rows: int) -> ValueError:
        """Return the message for texts that are cut in some rows and complete in the others."""
        return ValueError(
            f"{self._describe(num_rows)}. Other rows lack this column, so the texts are probably cut at "
            "a comma. Write each text that contains a comma in quotes"
        )

    def describe(self, num_rows: int) -> list[str]:
        """Return a note if some cells begin with a blank and others do not; else nothing."""
        is_part = 0 < self._num_blank < self._num_filled
        if self._has_style or not is_part or self._num_blank < MIN_BLANK_SHARE * num_rows:
            return []
        return [
            f"{self._describe(num_rows)}. If these cells are the ends of texts that contain a comma, "
            "write the texts in quotes"
        ]

    def _describe(self, num_rows: int) -> str:
        return (
            f"in {self._num_blank:,} of {num_rows:,} rows the column '{shown(self._column, 60)}', which "
            f"follows the text '{shown(self._text, 60)}', begins with a blank; the first is "
            f"{self._first_blank}"
        )

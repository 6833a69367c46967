"""Reader of CSV and TSV files. Every cell is text as it is written in the file; an empty cell is None.

A CSV file with a quote too many is still valid for most readers: a field runs over several lines and
swallows the rows in between. This reader is strict about quotes and looks for swallowed rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, TextIO

import pandas as pd

from raycomp.data.file_kinds import refuse_nul
from raycomp.data.quotes import (
    ESCAPES_NOTE,
    EscapedLines,
    MultiLineRows,
    Place,
    check_label_quotes,
    describe_quote_error,
)
from raycomp.data.row_widths import RowWidths
from raycomp.errors import QuoteError, shown

OpenText = Callable[[], AbstractContextManager[TextIO]]

# Largest number of characters of one field. A longer text gets a message of its own later.
MAX_FIELD = 2**31 - 1

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Layout:
    """How a file of delimited text is read.

    Attributes:
        delimiter: Character between two fields.
        has_quotes: Whether a field in double quotes may contain delimiters and line ends.
        has_header: Whether the first line has the names of the columns.
        skip_short_rows: Whether a row with too few fields is left out and counted.
    """

    delimiter: str
    has_quotes: bool
    has_header: bool = True
    skip_short_rows: bool = False


CSV = Layout(",", has_quotes=True)
TSV = Layout("\t", has_quotes=False)


def read_delimited(
    open_text: OpenText, layout: Layout, columns: Sequence[str] | None = None, label: str | None = None
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read a file of delimited text.

    Args:
        open_text: Function that opens the file as text, with line ends as they are.
        layout: How the file is read.
        columns: Names of the columns to keep; None keeps all. A column that the file lacks is left out.
        label: Name of the label column, which helps to recognise swallowed rows.

    Returns:
        Rows with text or None in each cell, the names of all columns, and notes for the user without
        the name of the file.

    Raises:
        ValueError: The file is empty, a row has too many fields, or quotes are wrong. The message names
            the line.
    """
    try:
        return _read_once(open_text, layout, columns, label, unescape=False)
    except QuoteError as error:
        try:
            frame, names, notes = _read_once(open_text, layout, columns, label, unescape=True)
        except ValueError:
            raise error from None
        return frame, names, [*notes, ESCAPES_NOTE]


def _read_once(
    open_text: OpenText,
    layout: Layout,
    columns: Sequence[str] | None,
    label: str | None,
    unescape: bool,
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read the file with one way of writing quotes inside of a field."""
    with open_text() as stream, _long_fields():
        lines: Iterable[str] = refuse_nul(stream)
        if unescape:
            lines = EscapedLines(lines)
        parser = _Parser(lines, layout, columns, label)
        frame, notes = parser.read()
        if isinstance(lines, EscapedLines) and not lines.has_escapes:
            raise QuoteError("the file lacks escaped quotes")
        return frame, parser.names, notes


@contextmanager
def _long_fields() -> Iterator[None]:
    """Allow fields of any length in the block. The limit of Python's reader is one for the process."""
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


class _Parser:
    """One pass over the lines of a file.

    Args:
        lines: Lines of the file.
        layout: How the file is read.
        columns: Names of the columns to keep, or None.
        label: Name of the label column, or None.

    Attributes:
        names: Names of all columns, known once the rows are read.
    """

    def __init__(
        self, lines: Iterable[str], layout: Layout, columns: Sequence[str] | None, label: str | None
    ) -> None:
        # The numbers are csv.QUOTE_MINIMAL and csv.QUOTE_NONE.
        quoting: Literal[0, 3] = 3
        if layout.has_quotes:
            quoting = 0
        self._reader = csv.reader(lines, delimiter=layout.delimiter, quoting=quoting, strict=True)
        self._layout = layout
        self._columns = columns
        self.names: list[str] = []
        # Row names seen so far, and the first row; None if rows lack them.
        self._row_names: set[str] | None = None
        self._first_place: Place | None = None
        self._num_quoted = 0
        self._label = label
        self._multi_line = MultiLineRows(layout.delimiter, label)
        self._widths = self._count_widths()

    def read(self) -> tuple[pd.DataFrame, list[str]]:
        """Return the rows and the notes."""
        rows = self._rows()
        first = next(rows, None)
        if first is None:
            raise ValueError("the file is empty")
        if self._layout.has_header:
            self.names = _name_columns(first[1])
        else:
            self.names = [str(number) for number in range(len(first[1]))]
        self._widths = self._count_widths()

        positions = self._find_positions()
        if self._columns and not positions:
            # The caller explains why. Its message is better than one about rows of another layout.
            return pd.DataFrame(), []
        cells: list[list[str | None]] = [[] for _ in positions]
        if not self._layout.has_header:
            self._add(first[1], positions, cells)
        for place, fields in rows:
            if self._layout.has_header and _repeats(fields, first[1]):
                raise ValueError(
                    f"{place} repeats the header, as files do that were joined. Remove this line"
                )
            complete = self._fit(place, fields)
            if complete is not None:
                self._add(complete, positions, cells)

        names = [self.names[position] for position in positions]
        frame = pd.DataFrame(dict(zip(names, map(_as_column, cells), strict=True)))
        self._multi_line.check(frame)
        if self._label in names:
            check_label_quotes(frame[self._label])
        return frame, self._notes(len(frame))

    def _count_widths(self) -> RowWidths:
        texts = [name for name in self._columns or () if name != self._label]
        layout = self._layout
        return RowWidths(self.names, texts, has_quotes=layout.has_quotes, skip=layout.skip_short_rows)

    def _find_positions(self) -> list[int]:
        """Return the positions of the columns to keep.

        Raises:
            ValueError: The file has one of them twice.
        """
        if self._columns is None:
            return list(range(len(self.names)))
        for name in self._columns:
            if self.names.count(name) > 1:
                raise ValueError(
                    f"it has {self.names.count(name)} columns named '{shown(name)}'. Rename all but one"
                )
        return [position for position, name in enumerate(self.names) if name in self._columns]

    def _add(
        self, fields: Sequence[str], positions: Sequence[int], cells: Sequence[list[str | None]]
    ) -> None:
        if len(fields) < len(self.names):
            fields = [*fields, *[""] * (len(self.names) - len(fields))]
        for position, column in zip(positions, cells, strict=True):
            column.append(fields[position] or None)

    def _rows(self) -> Iterator[tuple[Place, list[str]]]:
        """Yield the place and the fields of each row that is not blank.

        Raises:
            QuoteError: A quote is not closed, or text follows a closing quote.
        """
        number = -1 if self._layout.has_header else 0
        while True:
            start = self._reader.line_num + 1
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                place = Place(max(number, 0), start, self._reader.line_num)
                raise describe_quote_error(error, place) from None
            if fields is None:
                return
            if not fields or (len(fields) == 1 and len(self.names) > 1 and not fields[0].strip()):
                continue

            yield Place(number, start, self._reader.line_num), fields
            number += 1

    def _fit(self, place: Place, fields: list[str]) -> list[str] | None:
        """Return the fields of a row that belong to the columns, or None for a row that is left out.

        Raises:
            ValueError: The row has more fields than the header.
        """
        width = len(self.names)
        while len(fields) > width and not fields[-1]:
            # A delimiter at the end of the line adds an empty field.
            fields = fields[:-1]
        if place.row == 0 and len(fields) == width + 1:
            self._row_names = set()
            self._first_place = place
        if self._row_names is not None:
            fields = self._without_row_name(place, fields)
        if len(fields) > width:
            raise self._too_many_fields(place, len(fields))
        if not self._widths.add(place, fields):
            return None

        if not self._layout.has_quotes and any(map(_is_quoted, fields)):
            self._num_quoted += 1
        if place.last > place.first:
            self._multi_line.add(place, fields, self.names)
        return fields

    def _without_row_name(self, place: Place, fields: list[str]) -> list[str]:
        """Return a row without the row name that R writes in front of it: a different number in each row.

        Raises:
            ValueError: The first field is not a row name, therefore the row has too many fields.
        """
        assert self._row_names is not None  # nosec B101
        assert self._first_place is not None  # nosec B101
        width = len(self.names)
        name = fields[0]
        if len(fields) <= width:
            # Only some rows have one field more, therefore it is not a row name.
            raise self._too_many_fields(self._first_place, width + 1)
        if len(fields) > width + 1 or not _WHOLE_NUMBER.fullmatch(name) or name in self._row_names:
            raise self._too_many_fields(place, len(fields))
        self._row_names.add(name)
        return fields[1:]

    def _too_many_fields(self, place: Place, number: int) -> ValueError:
        remedy = "Write a field that contains a comma in quotes"
        if not self._layout.has_quotes:
            remedy = "Remove tabs from the texts"
        return ValueError(f"{place} has {number} fields, but the header has {len(self.names)}. {remedy}")

    def _notes(self, num_rows: int) -> list[str]:
        notes = []
        if self._row_names is not None:
            notes.append(
                "each row has one field more than the header. The first field is a different number in "
                "each row, as R writes row names; it is left out"
            )
        if self._multi_line.places:
            first = self._multi_line.places[0]
            notes.append(
                f"{len(self._multi_line.places):,} of {num_rows:,} rows have a line break inside of a "
                f"field; the first is row {first.row} in lines {first.first} to {first.last}"
            )
        if self._num_quoted:
            notes.append(
                f"{self._num_quoted:,} of {num_rows:,} rows have a text in quotes with doubled quotes "
                "inside. Quotes have no special meaning in TSV files, therefore the texts contain them. "
                "Write the file as CSV if they should not"
            )
        return [*notes, *self._widths.describe(num_rows)]


def _is_quoted(field: str) -> bool:
    """Return whether a field of a TSV file was written by CSV's rules, with quotes inside of quotes."""
    return len(field) > 3 and field[0] == field[-1] == '"' and '""' in field[1:-1]


def _repeats(fields: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a row is the header again, as in joined files; a mark of the encoding is ignored."""
    return len(fields) > 1 and [fields[0].removeprefix("\ufeff"), *fields[1:]] == list(header)


def _as_column(cells: list[str | None]) -> pd.Series:
    return pd.Series(cells, dtype=object)


def _name_columns(fields: Sequence[str]) -> list[str]:
    """Return the column names of a header. A column without a name gets its number."""
    return [name or f"(column {number})" for number, name in enumerate(fields)]

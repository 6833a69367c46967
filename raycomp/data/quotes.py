"""Quotes of CSV files: escaped by a backslash, not closed, or around rows that they swallow."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from raycomp.errors import QuoteError, shown

# Backslashes before a quote, as Spark writes them.
_ESCAPED_QUOTE = re.compile(r'(\\+)"')
_LINE_END = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"\s*[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?\s*")

# With more distinct labels than this, labels that are numbers are taken for targets of a regression.
_MANY_LABELS = 20

# Fewest rows that show what the cells of a column look like.
_MIN_TELLING_ROWS = 3

ESCAPES_NOTE = 'quotes inside of fields are written as \\", as Spark writes them; they are read as quotes'


@dataclass(frozen=True)
class Place:
    """The lines of a row.

    Attributes:
        row: Number of the row, from 0.
        first: Number of its first line, from 1.
        last: Number of its last line.
    """

    row: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"line {self.first} (row {self.row})"


class EscapedLines:
    """Lines of a file in which `\\"` is replaced by two quotes.

    Args:
        lines: Lines of the file.

    Attributes:
        has_escapes: Whether a line had such a quote.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self.has_escapes = False

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            replaced = line
            if '\\"' in line:
                replaced = _ESCAPED_QUOTE.sub(_unescape, line)
            self.has_escapes |= replaced != line
            yield replaced


def _unescape(match: re.Match[str]) -> str:
    """Return a quote after backslashes in CSV's own form: an odd number of them escapes the quote."""
    count = len(match.group(1))
    quote = '""' if count % 2 else '"'
    return "\\" * (count // 2) + quote


class MultiLineRows:
    """Rows with a line break inside of a field, and the rows that such a field may have swallowed.

    Args:
        delimiter: Character between two fields.
        label: Name of the label column, or None.

    Attributes:
        places: Places of the rows, in order.
    """

    def __init__(self, delimiter: str, label: str | None) -> None:
        self._delimiter = delimiter
        self._label = label
        self.places: list[Place] = []
        # Labels of the rows that a field would contain, with the place of the field.
        self._inner_labels: list[tuple[str, Place]] = []
        # All cells of these rows, which decide in a file without labels.
        self._inner_cells: list[_InnerCells] = []

    def add(self, place: Place, fields: Sequence[str], names: Sequence[str]) -> None:
        """Add a row over several lines.

        Only a field whose lines are all complete rows is suspicious.

        Args:
            place: Place of the row.
            fields: Its fields.
            names: Names of the columns.
        """
        self.places.append(place)
        if len(names) < 2:
            # Each line of a text looks like a row.
            return
        for number, field in enumerate(fields):
            lines = [line.split(self._delimiter) for line in _LINE_END.split(field)]
            if len(lines) < 2:
                continue
            # The first line begins with the fields before this one. The last one is not complete.
            inner = [[*fields[:number], *lines[0]], *lines[1:-1]]
            if all(len(row) == len(names) for row in inner):
                self._inner_cells.append(_InnerCells(place, _own_cells(lines, fields, number, names)))
                if self._label in names:
                    position = names.index(self._label)
                    self._inner_labels += [(row[position], place) for row in inner]

    def check(self, frame: pd.DataFrame) -> None:
        """Refuse fields that contain rows: with labels of the file, or with cells like those of others.

        Args:
            frame: All rows of the file, with the label column if the file has it.

        Raises:
            QuoteError: A field contains rows.
        """
        if not self._inner_cells:
            return

        rows = {place.row for place in self.places}
        labels = set()
        if self._label in frame:
            column = enumerate(frame[self._label])
            labels = {value for row, value in column if row not in rows and value is not None}
        if not labels:
            self._check_cells(frame.drop(index=[row for row in rows if row in frame.index]))
            return

        are_targets = len(labels) > _MANY_LABELS and all(map(_NUMBER.fullmatch, labels))
        for value, place in self._inner_labels:
            if value in labels or (are_targets and _NUMBER.fullmatch(value)):
                raise _swallowed_rows(place)

    def _check_cells(self, frame: pd.DataFrame) -> None:
        """Refuse fields whose lines have the cells of rows, in a file without labels.

        Args:
            frame: The rows without a line break.
        """
        columns: dict[str, _Cells] = {}
        for inner in self._inner_cells:
            has_cell = False
            are_alike = True
            for name, value in inner.cells:
                if name not in frame or not value:
                    continue
                if name not in columns:
                    columns[name] = _Cells(frame[name])
                has_cell |= columns[name].is_telling
                are_alike &= not columns[name].is_telling or columns[name].may_have(value)

            if has_cell and are_alike:
                raise _swallowed_rows(inner.place)


@dataclass(frozen=True)
class _InnerCells:
    """Cells that the rows inside of a field would have.

    Attributes:
        place: Place of the row with the field.
        cells: Name of the column and value of each cell; only cells whose ends are in the field.
    """

    place: Place
    cells: list[tuple[str, str]]


def _own_cells(
    lines: Sequence[Sequence[str]], fields: Sequence[str], number: int, names: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the cells of the rows inside of a field, without those that are fields of the whole row.

    Args:
        lines: Fields of each line of the field.
        fields: Fields of the whole row.
        number: Position of the field.
        names: Names of the columns.
    """
    cells = list(zip(names[number + 1 :], lines[0][1:], strict=True))
    for line in lines[1:-1]:
        cells += zip(names, line, strict=True)
    # A text that ends in this line has one field here, or delimiters of its own.
    if number and len(lines[-1]) + len(fields) - number - 1 == len(names):
        cells += zip(names[:number], lines[-1][:number], strict=True)
    return cells


class _Cells:
    """What the cells of one column look like, where this tells a cell from a part of a text.

    Args:
        column: The cells; missing ones are ignored.

    Attributes:
        is_telling: Whether the cells repeat, or are different but of one form, such as numbers of rows.
    """

    def __init__(self, column: pd.Series) -> None:
        cells = column.dropna()
        self._values = set(cells)
        self._forms = set(map(_form, self._values))
        self._repeats = 2 * len(self._values) <= len(cells)
        # A form without digits is that of each text with as many words.
        are_numbered = len(self._values) == len(cells) and len(self._forms) == 1
        are_numbered = are_numbered and "0" in next(iter(self._forms))
        self.is_telling = len(cells) >= _MIN_TELLING_ROWS and (self._repeats or are_numbered)

    def may_have(self, value: str) -> bool:
        """Return whether the column may have a value in one more row."""
        if self._repeats:
            return value in self._values
        return value not in self._values and _form(value) in self._forms


def _form(value: str) -> str:
    """Return a text with one sign for each run of digits or letters."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", value))


def _swallowed_rows(place: Place) -> QuoteError:
    return QuoteError(
        f"{place}: one field has the lines {place.first} to {place.last}, which look like "
        "rows of their own. A quote at its beginning is probably not meant as a quote. "
        'Remove it, or write the whole field in quotes and each quote in it as ""'
    )


def check_label_quotes(labels: Iterable[str | None]) -> None:
    """Refuse a file in which each label is in quotes that do not count as quotes.

    R and some programs write each text in quotes, also with tabs. In CSV files, a blank before the quote
    has the same effect.

    Raises:
        ValueError: Each label begins and ends with a quote.
    """
    written = {label.strip() for label in labels if label is not None}
    if written and all(len(label) > 2 and label[0] == label[-1] == '"' for label in written):
        raise ValueError(
            f"each label is in quotes, such as {shown(min(written), 60)}. They are a part of it in TSV "
            "files, and after a blank in CSV files. Remove the blanks before the quotes, or write "
            "a TSV file without quotes or as CSV"
        )


def describe_quote_error(error: csv.Error, place: Place) -> QuoteError:
    """Return the message for a row whose quotes are wrong."""
    if "unexpected end of data" in str(error):
        return QuoteError(
            f"{place}: a field begins with a quote that is not closed until the end of the file. Remove "
            'the quote, or write the whole field in quotes and each quote in it as ""'
        )
    closing = "later in this line"
    if place.last > place.first:
        closing = f"in line {place.last}"
    return QuoteError(
        f"{place}: a field begins with a quote, and other text follows the closing quote {closing}. "
        'Write the whole field in quotes, and each quote in it as ""'
    )

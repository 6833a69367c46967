"""Quotes of CSV files: escaped by a backslash, not closed, or around rows that they swallow."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from raycomp.errors import shown

# Backslashes before a quote, as Spark writes them.
_ESCAPED_QUOTE = re.compile(r'(\\+)"')
_LINE_END = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"\s*[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?\s*")

# With more distinct labels than this, labels that are numbers are taken for targets of a regression.
_MANY_LABELS = 20

ESCAPES_NOTE = 'quotes inside of fields are written as \\", as Spark writes them; they are read as quotes'


class QuoteError(ValueError):
    """A quote of a CSV file is not closed, or a field with quotes contains other rows."""


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

    def add(self, place: Place, fields: Sequence[str], names: Sequence[str]) -> None:
        """Add a row over several lines.

        Only a field whose lines are all complete rows is suspicious.

        Args:
            place: Place of the row.
            fields: Its fields.
            names: Names of the columns.
        """
        self.places.append(place)
        if self._label not in names:
            return
        position = names.index(self._label)
        for number, field in enumerate(fields):
            lines = _LINE_END.split(field)
            if len(lines) < 2:
                continue
            # The first line begins with the fields before this one. The last one is not complete.
            inner = [[*fields[:number], *lines[0].split(self._delimiter)]]
            inner += [line.split(self._delimiter) for line in lines[1:-1]]
            if all(len(row) == len(names) for row in inner):
                self._inner_labels += [(row[position], place) for row in inner]

    def check(self, frame: pd.DataFrame) -> None:
        """Refuse fields that contain rows with labels of the file.

        Args:
            frame: All rows of the file, with the label column.

        Raises:
            QuoteError: A field contains rows.
        """
        if not self._inner_labels:
            return
        rows = {place.row for place in self.places}
        labels = {
            value for row, value in enumerate(frame[self._label]) if row not in rows and value is not None
        }
        are_targets = len(labels) > _MANY_LABELS and all(map(_NUMBER.fullmatch, labels))
        for value, place in self._inner_labels:
            if value in labels or (are_targets and _NUMBER.fullmatch(value)):
                raise QuoteError(
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

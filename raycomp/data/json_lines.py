"""Reader of JSON lines. Cells keep the type that they have in the file; nothing is converted."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from raycomp.errors import first_line

# Distinct keys of a file. Each of them would be a column with a cell in each row.
MAX_KEYS = 2000


def read_json_lines(
    lines: Iterable[bytes], columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Read lines with one JSON object each.

    Args:
        lines: Lines of the file.
        columns: Names of the keys to keep; None keeps all. Other values are not checked.

    Returns:
        Rows, and the names of all keys in the order in which they occur.

    Raises:
        ValueError: A line is not a JSON object, or the file has too many keys. The message names the
            line.
    """
    keys: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    for row in _parse_lines(lines):
        keys.update(dict.fromkeys(row))
        if len(keys) > MAX_KEYS:
            raise ValueError(f"it has more than {MAX_KEYS:,} columns")
        if columns is not None:
            row = {name: row[name] for name in columns if name in row}
        rows.append(row)

    names = list(keys)
    if columns is not None:
        names = [name for name in keys if name in columns]
    # As objects: pandas would turn whole numbers into floats where a cell is missing.
    frame = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}
    return pd.DataFrame(frame), list(keys)


def _parse_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the object of each line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        if number == 1 and line.strip() in (b"[", b"{"):
            # The file is printed for people: one value over several lines.
            fault = "line 1 is not a JSON object, but the begin of one over several lines"
            if line.strip() == b"[":
                fault = "it is a JSON array and not JSON lines"
            raise ValueError(f"{fault}. Write one object per line")

        try:
            row = _parse_line(line)
        except UnicodeDecodeError:
            raise ValueError(f"line {number} is not UTF-8. Save the file as UTF-8") from None
        except RecursionError:
            raise ValueError(f"line {number} has too many nested values (recursion)") from None
        except ValueError as error:
            raise ValueError(f"line {number} is not a JSON object ({first_line(error)})") from None

        if isinstance(row, list) and number == 1:
            raise ValueError("it is a JSON array and not JSON lines. Write one object per line")
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        yield row


def _parse_line(line: bytes) -> Any:
    text = line.decode("utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # Python refuses whole numbers of more than 4,300 digits. Such a number stays a text.
        return json.loads(text, parse_int=_parse_integer)


def _parse_integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 1000 else digits

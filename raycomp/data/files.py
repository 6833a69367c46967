"""Readers of labelled text in CSV, TSV, JSON lines and Parquet files.

Cells of CSV and TSV files are text as it is written, and those of other files have the type that the
file gives them. Each reader checks the size of a file before it unpacks the file. A file can be
compressed with gzip. A directory of part files, as Spark writes it, is read like one file.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TextIO

import pandas as pd
import pyarrow as pa

from raycomp.data.delimited import CSV, TSV, Layout, read_delimited
from raycomp.data.file_kinds import HEAD_BYTES, describe_other_kind
from raycomp.data.file_rows import FileRows, check_same_columns
from raycomp.data.json_lines import read_json_lines
from raycomp.data.parquet_files import read_parquet, read_parquet_columns
from raycomp.errors import UserError, first_line, shown

MAX_FILE_BYTES = 8 * 2**30
# A compressed file may unpack to this many bytes without a check, and to this multiple of its size.
FREE_UNPACKED_BYTES = 2**26
MAX_UNPACKED_RATIO = 200

LAYOUTS = {".csv": CSV, ".tsv": TSV}
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
PARQUET_SUFFIXES = (".parquet", ".pq")
SUFFIXES = (*LAYOUTS, *JSON_SUFFIXES, *PARQUET_SUFFIXES)
"""Suffixes of data files. All except those of Parquet may be followed by ".gz"."""


def read_file(path: Path, columns: Sequence[str] | None = None, label: str | None = None) -> FileRows:
    """Read a CSV, TSV, JSON lines or Parquet file. The suffix of its name decides the format.

    Args:
        path: Path of the file, or of a directory of part files.
        columns: Names of the columns to keep, where the file has them; None keeps all.
        label: Name of the label column, which helps to find errors of a CSV file.

    Raises:
        UserError: The file is missing, too large or damaged, or has another suffix.
    """
    paths = _list_parts(path)
    if len(paths) > 1:
        # Spark writes an empty file for a partition without rows.
        paths = [part for part in paths if not _is_empty_text(part)] or paths[:1]
    parts = [_read_part(part, columns, label) for part in paths]
    if not any(part.columns for part in parts):
        raise UserError(f"File {path} cannot be read: the file is empty. Check the file.")
    if len(parts) == 1:
        return parts[0]

    written = {file: rows for file, rows in zip(paths, parts, strict=True) if rows.columns}
    check_same_columns(path, written, columns or ())
    names = dict.fromkeys(name for part in parts for name in part.columns)
    notes = tuple(note for part in parts for note in part.notes)
    filled = [part.frame for part in parts if len(part.frame)] or [parts[0].frame]
    return FileRows(pd.concat(filled, ignore_index=True), tuple(names), notes)


def read_table(path: Path, *, has_header: bool = True) -> FileRows:
    """Read a TSV file of GLUE, or a Parquet file. Rows of a TSV file with too few fields are left out.

    Args:
        path: Path of the file.
        has_header: Whether the first line of a TSV file has the names of the columns.

    Raises:
        UserError: As `read_file`.
    """
    _check_size(path)
    if path.suffix.lower() != ".tsv":
        return read_file(path)
    layout = replace(TSV, has_header=has_header, skip_short_rows=True)
    return _guarded(path, lambda: _read_delimited(path, layout, None, None))


def read_column_names(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a file.

    Raises:
        UserError: As `read_file`.
    """
    parts = _list_parts(path)
    if _format_suffix(parts[0]) in PARQUET_SUFFIXES:
        return _guarded(path, lambda: tuple(read_parquet_columns(parts[0])))
    return read_file(path, columns=()).columns


def _is_empty_text(path: Path) -> bool:
    """Return whether a file is a CSV, TSV or JSON lines file of 0 bytes."""
    if _format_suffix(path) in PARQUET_SUFFIXES:
        return False
    return not _guarded(path, lambda: _read_head(path))


def _list_parts(path: Path) -> list[Path]:
    """Return a file, or the files of a directory that Spark or another cluster program wrote.

    Raises:
        UserError: The path is missing, or the directory lacks data files or contains subdirectories.
    """
    try:
        is_file = path.is_file()
        is_folder = path.is_dir()
    except OSError:
        # For example, the name is too long.
        is_file = is_folder = False
    if is_file:
        return [path]
    if not is_folder:
        raise UserError(f"File {shown(str(path), 1000)} does not exist. Check the path.")

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"{shown(str(path), 1000)} is a directory. Name a data file, or a directory of part files "
            f"whose name ends in {', '.join(SUFFIXES)}."
        )
    # Spark marks its own files, such as _SUCCESS, by the first character.
    entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(("_", "."))]
    folders = [entry for entry in entries if entry.is_dir()]
    if folders:
        raise UserError(
            f"Directory {path} has the subdirectory {shown(folders[0].name)}. Only a directory of part "
            "files is read. Write the data as one file, or without partitions."
        )
    parts = [entry for entry in entries if _format_suffix(entry) in SUFFIXES]
    if not parts:
        raise UserError(f"Directory {path} lacks data files. Check the path.")
    return parts


def _format_suffix(path: Path) -> str:
    """Return the suffix that decides the format of a file, without ".gz"."""
    if path.suffix.lower() == ".gz":
        return path.with_suffix("").suffix.lower()
    return path.suffix.lower()


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"File {path} is larger than {MAX_FILE_BYTES / 2**30:.0f} GiB. Use a smaller file."
        )


def _read_part(path: Path, columns: Sequence[str] | None, label: str | None) -> FileRows:
    """Read one file.

    Raises:
        UserError: As `read_file`.
    """
    _check_size(path)
    suffix = _format_suffix(path)
    is_compressed = path.suffix.lower() == ".gz"
    if suffix in SUFFIXES and not (is_compressed and suffix in PARQUET_SUFFIXES):
        _guarded(path, lambda: _check_kind(path))
    if suffix in LAYOUTS:
        return _guarded(path, lambda: _read_delimited(path, LAYOUTS[suffix], columns, label))
    if suffix in JSON_SUFFIXES:
        return _guarded(path, lambda: _read_json(path, columns))
    if suffix in PARQUET_SUFFIXES and not is_compressed:
        frame, names = _guarded(path, lambda: read_parquet(path, MAX_FILE_BYTES, columns))
        return FileRows(frame, tuple(names))
    raise UserError(
        f"File {path} has the unknown suffix {path.suffix!r}. Use .csv, .tsv, .jsonl, .json (also with "
        ".gz), or .parquet."
    )


def _check_kind(path: Path) -> None:
    """Refuse a file that is not of the kind that its name says.

    Raises:
        ValueError: The file is of another kind.
    """
    is_parquet = _format_suffix(path) in PARQUET_SUFFIXES
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() == ".gz" and start and not start.startswith(b"\x1f\x8b"):
        raise ValueError("it is not compressed with gzip. Remove .gz from its name, or compress it")
    if is_parquet and start in (b"PAR1", b"PARE"):
        return
    description = describe_other_kind(_read_head(path))
    if description:
        raise ValueError(description)


def _read_head(path: Path) -> bytes:
    with _open_bytes(path) as stream:
        return stream.read(HEAD_BYTES)


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Call a reader, and turn its errors into a message with the name of the file."""
    try:
        return read()
    except MemoryError:
        raise UserError(
            f"File {path} needs more memory than this machine has. Use a smaller file."
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            f"File {path} cannot be read: {_find_other_encoding(path)}. Save it as UTF-8."
        ) from None
    except (ValueError, OSError, EOFError, RecursionError, zlib.error, pa.ArrowException) as error:
        message = first_line(error).removesuffix(".")
        raise UserError(f"File {path} cannot be read: {message}. Check the file.") from None


def _find_other_encoding(path: Path) -> str:
    """Return which line of a file is not UTF-8, and its first wrong byte."""
    with _open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return f"line {number} is not UTF-8 (byte {byte:#04x}, perhaps Windows-1252 or Latin-1)"
    return "it is not UTF-8"


def _read_delimited(
    path: Path, layout: Layout, columns: Sequence[str] | None, label: str | None
) -> FileRows:
    frame, names, notes = read_delimited(lambda: _open_text(path), layout, columns, label)
    return FileRows(frame, tuple(names), tuple(f"{path.name}: {note}." for note in notes))


def _read_json(path: Path, columns: Sequence[str] | None) -> FileRows:
    with _open_bytes(path) as stream:
        frame, names = read_json_lines(stream, columns)
    return FileRows(frame, tuple(names))


def _open_text(path: Path) -> AbstractContextManager[TextIO]:
    """Open a file as UTF-8 text, with or without a byte order mark. Line ends stay as they are."""
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", errors="strict", newline="")


def _open_bytes(path: Path) -> IO[bytes]:
    if path.suffix.lower() != ".gz":
        return path.open("rb")
    limit = max(FREE_UNPACKED_BYTES, MAX_UNPACKED_RATIO * path.stat().st_size)
    return io.BufferedReader(_LimitedGzip(path, min(limit, MAX_FILE_BYTES)), 2**20)


class _LimitedGzip(io.RawIOBase):
    """Bytes of a gzip file, up to a limit: a small file can unpack to any number of bytes.

    Args:
        path: Path of the file.
        limit: Largest number of unpacked bytes.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - `close` closes it
        self._limit = limit
        self._count = 0

    def readable(self) -> bool:
        """Return that the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer, and return their number.

        Raises:
            ValueError: The file unpacks to more bytes than the limit.
        """
        data = self._file.read(len(buffer))
        self._count += len(data)
        if self._count > self._limit:
            raise ValueError(f"it unpacks to more than {self._limit:,} bytes")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

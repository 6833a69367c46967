"""Reader of Parquet files, within limits of the unpacked size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycomp.errors import shown

MAX_COLUMNS = 2000
# Distinct texts take more than one byte per row.
MAX_ROWS_A_BYTE = 20


def read_parquet(
    path: Path, max_bytes: int, columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Read a Parquet file within the limits of size.

    A small file can claim many rows of long text. Text columns therefore stay dictionary-encoded until
    their unpacked size is known.

    Args:
        path: Path of the file.
        max_bytes: Largest unpacked size.
        columns: Names of the columns to keep, where the file has them; None keeps all.

    Returns:
        The rows, and the names of all columns.

    Raises:
        ValueError: The file exceeds a limit, or has a column to keep twice.
    """
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        _check_size(file.metadata, path.stat().st_size, max_bytes)

    read_names = _choose_columns(schema.names, columns)
    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    table = pq.read_table(
        path, columns=read_names, read_dictionary=[name for name in texts if name in read_names]
    )
    # The validation raises an error for text that is not valid UTF-8.
    table.validate(full=True)

    for position, field in enumerate(table.schema):
        if not pa.types.is_dictionary(field.type) or not pa.types.is_string(field.type.value_type):
            continue

        column = table[position]
        text_bytes = sum(_text_bytes(chunk) for chunk in column.chunks)
        if text_bytes > max_bytes:
            raise ValueError(f"column {field.name!r} unpacks to {text_bytes:,} bytes of text")
        table = table.set_column(position, field.name, column.cast(pa.large_string()))

    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame, list(schema.names)


def _check_size(meta: pq.FileMetaData, size: int, max_bytes: int) -> None:
    """Refuse a file of `size` bytes that unpacks to more than the limits allow.

    Raises:
        ValueError: The file exceeds a limit.
    """
    expanded = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    if meta.num_rows > MAX_ROWS_A_BYTE * size or expanded > max_bytes:
        raise ValueError(
            f"it unpacks to {meta.num_rows:,} rows and {expanded:,} bytes from {size:,} bytes; allowed "
            f"are {MAX_ROWS_A_BYTE} rows per byte and {max_bytes / 2**30:.0f} GiB"
        )
    if meta.num_columns > MAX_COLUMNS:
        raise ValueError(f"it has more than {MAX_COLUMNS:,} columns")


def _choose_columns(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Return the names of the columns to read.

    Raises:
        ValueError: The file has one of them twice.
    """
    read_names = [name for name in dict.fromkeys(names) if columns is None or name in columns]
    for name in read_names:
        if names.count(name) > 1:
            raise ValueError(
                f"it has {names.count(name)} columns named '{shown(name)}'. Rename all but one"
            )
    return read_names


def read_parquet_columns(path: Path) -> list[str]:
    """Return the names of a file's columns."""
    names: list[str] = pq.read_schema(path).names
    return names


def _text_bytes(chunk: Any) -> int:
    """Return the number of bytes of all texts of a dictionary-encoded column without unpacking it."""
    lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
    return pc.sum(lengths.cast(pa.int64())).as_py() or 0

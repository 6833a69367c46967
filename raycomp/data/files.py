"""Readers of labelled text in CSV, TSV, JSON lines and Parquet files.

Each reader checks the size of a file before it unpacks the file.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycomp.errors import UserError, first_line, shown

MAX_FILE_BYTES = 8 * 2**30
MAX_COLUMNS = 2000
# Limit for Parquet files. Distinct texts take more than one byte per row.
MAX_ROWS_A_BYTE = 20


def read_file(path: Path, header: int | None = 0) -> pd.DataFrame:
    """Read a CSV, TSV, JSON lines or Parquet file. The suffix of its name decides the format.

    Args:
        path: Path of the file.
        header: Line with the column names of a CSV or TSV file, or None for a file without names.

    Raises:
        UserError: The file is missing, too large or damaged, or has another suffix.
    """
    try:
        exists = path.is_file()
    except OSError:
        # For example, the name is too long.
        exists = False
    if not exists:
        raise UserError(f"File {shown(str(path), 1000)} does not exist. Check the path.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"File {path} is larger than {MAX_FILE_BYTES / 2**30:.0f} GiB. Use a smaller file."
        )

    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            return pd.read_csv(
                path, header=header, encoding_errors="strict", keep_default_na=False, na_values=[""]
            )
        if suffix == ".tsv":
            return pd.read_csv(
                path, sep="\t", quoting=csv.QUOTE_NONE, header=header, encoding_errors="strict",
                keep_default_na=False, na_values=[""],
            )  # fmt: skip
        if suffix in (".jsonl", ".json", ".ndjson"):
            _count_keys(path)
            return pd.read_json(path, lines=True)
        if suffix in (".parquet", ".pq"):
            return _read_parquet(path)
    except MemoryError:
        raise UserError(
            f"File {path} needs more memory than this machine has. Use a smaller file."
        ) from None
    except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
        # The parser errors of pandas are subclasses of ValueError.
        raise UserError(f"File {path} cannot be read: {first_line(error)}. Check the file.") from None

    raise UserError(f"File {path} has the unknown suffix {suffix!r}. Use .csv, .tsv, .jsonl or .parquet.")


def _count_keys(path: Path) -> None:
    """Raise ValueError if JSON lines have too many distinct keys.

    Each distinct key becomes a column with a cell in each row, which takes much memory.
    """
    keys: set[str] = set()
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError("a line is not a JSON object")
            keys.update(row)
            if len(keys) > MAX_COLUMNS:
                raise ValueError(f"it has more than {MAX_COLUMNS:,} columns")


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file within the limits of size.

    A small file can claim many rows of long text. Text columns therefore stay dictionary-encoded until
    their unpacked size is known.

    Raises:
        ValueError: The file exceeds a limit.
    """
    size = path.stat().st_size
    with pq.ParquetFile(path) as file:
        meta = file.metadata
        schema = file.schema_arrow
        expanded = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        if meta.num_rows > MAX_ROWS_A_BYTE * size or expanded > MAX_FILE_BYTES:
            raise ValueError(
                f"it unpacks to {meta.num_rows:,} rows and {expanded:,} bytes from "
                f"{size:,} bytes; allowed are {MAX_ROWS_A_BYTE} rows per byte and "
                f"{MAX_FILE_BYTES / 2**30:.0f} GiB"
            )
        if meta.num_columns > MAX_COLUMNS:
            raise ValueError(f"it has more than {MAX_COLUMNS:,} columns")

    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    table = pq.read_table(path, read_dictionary=texts)
    # The validation raises an error for text that is not valid UTF-8.
    table.validate(full=True)

    for position, field in enumerate(table.schema):
        if not pa.types.is_dictionary(field.type) or not pa.types.is_string(field.type.value_type):
            continue

        column = table[position]
        text_bytes = sum(_text_bytes(chunk) for chunk in column.chunks)
        if text_bytes > MAX_FILE_BYTES:
            raise ValueError(f"column {field.name!r} unpacks to {text_bytes:,} bytes of text")
        table = table.set_column(position, field.name, column.cast(pa.large_string()))

    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame


def _text_bytes(chunk: Any) -> int:
    """Return the number of bytes of all texts of a dictionary-encoded column without unpacking it."""
    lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
    return pc.sum(lengths.cast(pa.int64())).as_py() or 0

"""Labelled text in files: CSV, TSV, JSON lines, Parquet, each bounded before it is unpacked."""

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
MAX_ROWS_A_BYTE = 20  # of a Parquet file; texts that differ take more than a byte each


def read_file(path: Path, header: int | None = 0) -> pd.DataFrame:
    """Read CSV, TSV, JSON lines or Parquet, by ending.

    Raises:
        UserError: the file is missing, too large, damaged, or has another ending.
    """
    try:
        there = path.is_file()
    except OSError:  # such as a name that is too long
        there = False
    if not there:
        raise UserError(f"File {shown(str(path), 1000)} does not exist. Check the path.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(
            f"File {path} is larger than {MAX_FILE_BYTES / 2**30:.0f} GiB. Use a smaller file."
        )
    ending = path.suffix.lower()
    try:
        if ending == ".csv":
            return pd.read_csv(
                path, header=header, encoding_errors="strict", keep_default_na=False, na_values=[""]
            )
        if ending == ".tsv":
            return pd.read_csv(
                path, sep="\t", quoting=csv.QUOTE_NONE, header=header, encoding_errors="strict",
                keep_default_na=False, na_values=[""],
            )  # fmt: skip
        if ending in (".jsonl", ".json", ".ndjson"):
            _count_keys(path)
            return pd.read_json(path, lines=True)
        if ending in (".parquet", ".pq"):
            return _parquet(path)
    except MemoryError:
        raise UserError(
            f"File {path} needs more memory than this machine has. Use a smaller file."
        ) from None
    except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
        # pandas' parser errors are ValueErrors
        raise UserError(f"File {path} cannot be read: {first_line(error)}. Check the file.") from None
    raise UserError(f"File {path} has the unknown suffix {ending!r}. Use .csv, .tsv, .jsonl or .parquet.")


def _count_keys(path: Path) -> None:
    """Refuse JSON lines with ever new keys: each would be a column with a cell in every row."""
    keys: set[str] = set()
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError("a line is no JSON object")
            keys.update(row)
            if len(keys) > MAX_COLUMNS:
                raise ValueError(f"it has more than {MAX_COLUMNS:,} columns")


def _parquet(path: Path) -> pd.DataFrame:
    """Read Parquet; text stays in its dictionary until its length is known: rows are cheap to claim."""
    with pq.ParquetFile(path) as file:
        meta, schema = file.metadata, file.schema_arrow
        expanded = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        if meta.num_rows > MAX_ROWS_A_BYTE * path.stat().st_size or expanded > MAX_FILE_BYTES:
            raise ValueError(
                f"it unpacks to {meta.num_rows:,} rows and {expanded:,} bytes from "
                f"{path.stat().st_size:,}; allowed are {MAX_ROWS_A_BYTE} rows a byte, and "
                f"{MAX_FILE_BYTES / 2**30:.0f} GiB"
            )
        if meta.num_columns > MAX_COLUMNS:
            raise ValueError(f"it has more than {MAX_COLUMNS:,} columns")
    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    table = pq.read_table(path, read_dictionary=texts)
    table.validate(full=True)  # text that is no UTF-8 is an error here
    for at, field in enumerate(table.schema):
        if not pa.types.is_dictionary(field.type) or not pa.types.is_string(field.type.value_type):
            continue
        size = sum(_text_bytes(chunk) for chunk in table[at].chunks)
        if size > MAX_FILE_BYTES:
            raise ValueError(f"column {field.name!r} unpacks to {size:,} bytes of text")
        table = table.set_column(at, field.name, table[at].cast(pa.large_string()))
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame


def _text_bytes(chunk: Any) -> int:
    """Return the bytes of all texts of a dictionary-encoded column, without unpacking them."""
    lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
    return pc.sum(lengths.cast(pa.int64())).as_py() or 0

"""The Parquet tables of a run: atomic writes, and reads into pandas. Their schemas are in `schemas`.

A table is a directory of Parquet files, `<run>/tables/<name>/`. A file is written under a hidden name,
synced, and renamed, so pandas or DuckDB can read the directory at any moment. A writer that repeats its
work after a crash writes the same file names again: no row is lost or doubled. (`data.files` reads the
Parquet files of users.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycomp.errors import UserError, first_line
from raycomp.storage.files import atomic_write
from raycomp.storage.layout import RunLayout
from raycomp.storage.old_columns import add_missing_columns
from raycomp.storage.schemas import SCHEMAS

if TYPE_CHECKING:
    # Evaluators and the ledger start sooner without it.
    import pandas as pd

REWRITTEN_TABLES = ("evaluations", "deployments")
"""Tables whose rows a run writes again if a file is missing. The others record work that is done once."""


def table_dir(run: Path, name: str) -> Path:
    """Return the directory of a table.

    Raises:
        UserError: The name of the table is unknown.
    """
    if name not in SCHEMAS:
        raise UserError(f"Table {name!r} is unknown. Tables: {', '.join(SCHEMAS)}.")
    return RunLayout(Path(run)).table(name)


def write_rows(run: Path, name: str, rows: Sequence[Mapping[str, Any]], part: str) -> Path:
    """Write rows as the file `<part>.parquet` of a table, replacing that file at once.

    Args:
        run: The run directory.
        name: Name of a table. Missing columns of a row are null.
        rows: At least one row.
        part: Name of the file without its suffix. A part with the same name is replaced.

    Raises:
        ValueError: A row has a column that the schema does not have, or `rows` is empty.
        UserError: The storage cannot be written.
    """
    schema = SCHEMAS[name]
    if not rows:
        raise ValueError("no rows to write")
    unknown = set().union(*(row.keys() for row in rows)) - set(schema.names)
    if unknown:
        raise ValueError(f"table {name}: unknown column {', '.join(sorted(unknown))}")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    target = table_dir(run, name) / f"{part}.parquet"

    def write(path: Path) -> None:
        pq.write_table(table, path, compression="zstd")

    return atomic_write(target, write)


def read_table(run: Path, name: str) -> pd.DataFrame:
    """Return a table of a run. Columns that an old file does not have are null, or computed if possible.

    Raises:
        UserError: A file of the table is corrupted or not Parquet.
    """
    tables = [part for _, part in read_parts(run, name)]
    return (pa.concat_tables(tables) if tables else SCHEMAS[name].empty_table()).to_pandas()


def read_parts(run: Path, name: str, known: Collection[str] = ()) -> list[tuple[Path, pa.Table]]:
    """Return the files of a table with their rows. A file that disappears during the call is left out.

    Args:
        run: The run directory.
        name: Name of the table.
        known: Names of files without their suffix that the caller has read; they are not opened.

    Raises:
        UserError: A file is corrupted or not Parquet.
    """
    parts: list[tuple[Path, pa.Table]] = []
    for path in part_files(run, name):
        if path.stem in known:
            continue
        try:
            # An open file stays readable if its name is removed.
            with path.open("rb") as file:
                rows = add_missing_columns(name, path, pq.read_table(file))
                part = _fit(rows, SCHEMAS[name])
                part.validate(full=True)
        except FileNotFoundError:
            continue
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            purpose = " to write its rows again" if name in REWRITTEN_TABLES else ""
            raise UserError(
                f"{path} is corrupted or incomplete ({first_line(error)}). Move it away and run the job "
                f"again{purpose}."
            ) from None
        parts.append((path, part))
    return parts


def part_files(run: Path, name: str) -> list[Path]:
    """Return the files of a table, sorted by name."""
    return sorted(p for p in table_dir(run, name).glob("*.parquet") if not p.name.startswith("."))


def _fit(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with the columns of the present schema. Versions only add columns."""
    columns = [
        part[field.name].cast(field.type)
        if field.name in part.column_names
        else pa.nulls(part.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)

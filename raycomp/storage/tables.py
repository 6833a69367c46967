"""Every Parquet schema, atomic writes, and reads into pandas: the only module that knows Parquet.

A table is a folder of Parquet files, `<run>/tables/<name>/`. A file is written under a hidden name,
synced, and renamed, so that pandas or DuckDB can read the folder at any moment. A writer that
repeats its work after a crash writes the same file names again: no row is lost or doubled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycomp.errors import UserError, first_line
from raycomp.storage.files import atomic_write
from raycomp.storage.layout import RunLayout
from raycomp.storage.old_columns import add_missing_columns
from raycomp.storage.schemas import SCHEMAS

# What comes back when a file of a table was lost; the rest is a record of work that stays done.
_AGAIN = dict.fromkeys(("evaluations", "deployments"), " to write its rows anew")


def table_dir(run: Path, name: str) -> Path:
    """Return the folder of one table of a run."""
    if name not in SCHEMAS:
        raise UserError(f"no table {name!r}; there are: {', '.join(SCHEMAS)}")
    return RunLayout(Path(run)).table(name)


def write_rows(run: Path, name: str, rows: Sequence[Mapping[str, Any]], part: str) -> Path:
    """Write rows as the file `<part>.parquet` of a table, replacing that file at once.

    Args:
        run: the run's folder.
        name: a key of SCHEMAS; every row's keys must be columns of it, absent columns are null.
        rows: at least one row.
        part: file name without ending; the same part written again replaces its rows.

    Raises:
        ValueError: a row has a column that the schema lacks, or there is no row.
        UserError: the storage cannot be written.
    """
    schema = SCHEMAS[name]
    if not rows:
        raise ValueError("no rows to write")
    unknown = set().union(*(row.keys() for row in rows)) - set(schema.names)
    if unknown:
        raise ValueError(f"table {name} has no column {', '.join(sorted(unknown))}")
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    target = table_dir(run, name) / f"{part}.parquet"

    def write(path: Path) -> None:
        pq.write_table(table, path, compression="zstd")

    return atomic_write(target, write)


def read_table(run: Path, name: str) -> pd.DataFrame:
    """Read a table of one run; columns that an old file lacks are null.

    Raises:
        UserError: a file of the table is torn or no Parquet; it names the file.
    """
    tables = [part for _, part in read_parts(run, name)]
    return (pa.concat_tables(tables) if tables else SCHEMAS[name].empty_table()).to_pandas()


def read_parts(run: Path, name: str) -> list[tuple[Path, pa.Table]]:
    """Read the files of a table; one that its writer takes back meanwhile is left out.

    Raises:
        UserError: a file is torn or no Parquet; it names the file.
    """
    found: list[tuple[Path, pa.Table]] = []
    for path in part_files(run, name):
        try:
            with path.open("rb") as file:  # once open it stays whole, whatever becomes of the name
                rows = add_missing_columns(name, path, pq.read_table(file))
                part = _fit(rows, SCHEMAS[name])
                part.validate(full=True)
        except FileNotFoundError:
            continue
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            raise UserError(
                f"{path} is not a whole Parquet file of this table ({first_line(error)}); move it away, "
                f"and run the job again{_AGAIN.get(name, '')}"
            ) from None
        found.append((path, part))
    return found


def part_files(run: Path, name: str) -> list[Path]:
    """Return the visible files of a table, by name."""
    return sorted(p for p in table_dir(run, name).glob("*.parquet") if not p.name.startswith("."))


def _fit(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table of an older version to the schema of today: columns are only ever added."""
    columns = [
        part[field.name].cast(field.type)
        if field.name in part.column_names
        else pa.nulls(part.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)

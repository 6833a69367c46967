"""Every Parquet schema, atomic writes, and reads into pandas: the only module that knows Parquet.

A table is a folder of Parquet files, `<run>/tables/<name>/`. A file is written under a hidden name,
synced, and renamed, so that pandas or DuckDB can read the folder at any moment. A writer that
repeats its work after a crash writes the same file names again: no row is lost or doubled.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycomp.errors import UserError, first_line

_TEXT, _REAL, _INT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


SCHEMAS: dict[str, pa.Schema] = {
    "steps": _schema(
        run=_TEXT, method=_TEXT, phase=_TEXT, step=_INT, epoch=_REAL, loss=_REAL, p_exploit=_REAL,
        entropy=_REAL, explored=_FLAG, tokens=_INT, seconds=_REAL,
    ),
    "distribution": _schema(
        run=_TEXT, step=_INT, variable=_TEXT, choice=_TEXT, probability=_REAL,
    ),
    "evaluations": _schema(
        run=_TEXT, weights_id=_TEXT, method=_TEXT, arch_id=_TEXT, arch=_TEXT, split=_TEXT,
        precision=_TEXT, metric=_TEXT, value=_REAL, loss=_REAL, examples=_INT, params=_INT,
        flops=_REAL, seconds=_REAL, created_at=pa.timestamp("us", tz="UTC"),
    ),
    "deployments": _schema(
        run=_TEXT, method=_TEXT, budget=_TEXT, kind=_TEXT, limit=_REAL, feasible=_FLAG,
        searcher=_TEXT, seed=_INT, arch_id=_TEXT, arch=_TEXT, params=_INT, params_ratio=_REAL,
        flops=_REAL, latency_ms=_REAL, selection=_REAL, validation=_REAL,
        teacher_validation=_REAL, retention=_REAL, evaluations=_INT, seconds=_REAL, export=_TEXT,
        metric=_TEXT, gap=_REAL, encoder_params=_INT, cost=_REAL, parity=_REAL, reason=_TEXT,
    ),
    "ablations": _schema(
        run=_TEXT, study=_TEXT, variant=_TEXT, task=_TEXT, seed=_INT, budget=_TEXT, metric=_TEXT,
        value=_REAL, method=_TEXT, selection=_REAL, gap=_REAL, examples=_INT, params=_INT,
        published=_REAL,
    ),
}  # fmt: skip


# What comes back when a file of a table was lost; the rest is a record of work that stays done.
_AGAIN = dict.fromkeys(("evaluations", "deployments"), " to write its rows anew")


def table_dir(run: Path, name: str) -> Path:
    """Return the folder of one table of a run."""
    if name not in SCHEMAS:
        raise UserError(f"no table {name!r}; there are: {', '.join(SCHEMAS)}")
    return Path(run) / "tables" / name


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


def atomic_write(target: Path, write: Any, *, sync: bool = True) -> Path:
    """Call `write(hidden path)`, sync, and rename it to `target`; leave nothing behind on failure.

    Args:
        target: the file to make or replace.
        write: called with the path to write.
        sync: False for a file that may be torn or old after the machine is lost: readers must bear it.

    Raises:
        UserError: the storage is full or cannot be written.
    """
    hidden = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(hidden)
        if sync:
            with hidden.open("rb+") as file:
                os.fsync(file.fileno())
        hidden.replace(target)
    except OSError as error:
        raise refused(target, error) from error
    finally:
        hidden.unlink(missing_ok=True)
    return target


def append_line(target: Path, line: str) -> None:
    """Add a line to a text file, unsynced; a failure may leave half of it: readers must bear it.

    Raises:
        UserError: the storage is full or cannot be written.
    """
    try:
        with target.open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise refused(target, error) from error


def refused(target: Path, error: OSError) -> UserError:
    """Return what a user is told of a file that could not be written."""
    return UserError(
        f"cannot write {target}: {error.strerror or error}; free space or choose another --storage"
    )


def write_text(target: Path, text: str, *, sync: bool = True) -> Path:
    """Write a small text file atomically; `sync` as in `atomic_write`."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return atomic_write(target, write, sync=sync)


def write_json(target: Path, data: Any, *, compact: bool = False, sync: bool = True) -> Path:
    """Write JSON atomically; floats round-trip bit for bit.

    Args:
        target: the file to make or replace.
        data: what JSON can hold; a number that is not finite is a ValueError.
        compact: one line, for what programs alone read.
        sync: as in `atomic_write`.
    """
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return write_text(target, json.dumps(data, allow_nan=False, **form) + "\n", sync=sync)


def predictions_path(run: Path, model: str, split: str) -> Path:
    """Return where a model's logits on a split lie; model "labels" are the labels themselves."""
    return Path(run) / "predictions" / f"{model}.{split}.npy"


def write_array(target: Path, array: np.ndarray) -> Path:
    """Write an array as .npy atomically."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    return atomic_write(target, write)


def read_array(path: Path) -> np.ndarray | None:
    """Read what `write_array` wrote; None where there is no such file.

    Raises:
        UserError: the file is torn or no array.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is no whole array ({error}); move it away, and run the job again"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a run wrote.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); move it away, and run the job again"
        ) from None
    return data


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
                part = _fit(pq.read_table(file), SCHEMAS[name])
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

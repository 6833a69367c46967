"""Columns that the tables of older runs lack, computed from the columns that they have."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raycomp.storage.rows import PENALTY_KINDS


def add_missing_columns(name: str, path: Path, rows: pa.Table) -> pa.Table:
    """Return the rows of a file with the columns that follow from others.

    Args:
        name: Name of the table.
        path: The file. Its name begins with the name of the training task in `steps`.
        rows: Rows as the file has them.
    """
    if name == "steps" and "training" not in rows.column_names and "phase" in rows.column_names:
        return _split_phase(path, rows)
    if name == "deployments" and "used_share" not in rows.column_names:
        return _add_used_share(rows)
    return rows


def _split_phase(path: Path, rows: pa.Table) -> pa.Table:
    """Add `training`. Older files have its name in `phase` if the training is without phases."""
    training = path.stem.rpartition("-")[0]
    phase = rows["phase"].cast(pa.string())
    names = pa.array([training] * rows.num_rows, pa.string()) if training else phase
    own_phase = pc.if_else(pc.equal(phase, names), pa.scalar(None, pa.string()), phase)

    rows = rows.set_column(rows.column_names.index("phase"), "phase", own_phase)
    return rows.append_column("training", names)


def _add_used_share(rows: pa.Table) -> pa.Table:
    """Add `used_share`, the cost over the limit."""
    if not {"cost", "limit", "kind"} <= set(rows.column_names):
        return rows
    limit = rows["limit"].cast(pa.float64())
    is_penalty = pc.is_in(rows["kind"].cast(pa.string()), pa.array(PENALTY_KINDS))
    is_limit = pc.and_(pc.invert(is_penalty), pc.greater(limit, 0))
    usable = pc.if_else(is_limit, limit, pa.scalar(None, pa.float64()))

    return rows.append_column("used_share", pc.divide(rows["cost"].cast(pa.float64()), usable))

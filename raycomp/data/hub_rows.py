"""Rows of a `datasets.Dataset`, with the class names that its label column knows."""

from __future__ import annotations

from typing import Any

from raycomp.data.file_rows import FileRows
from raycomp.errors import UserError

# Largest share of rows without a label. A split with more of them is probably one without labels.
MAX_UNLABELLED = 0.5


def class_names(dataset: Any, label: str) -> tuple[str, ...]:
    """Return the class names of a label column in the order of their numbers; empty without names.

    Args:
        dataset: A `datasets.Dataset`.
        label: Name of the label column.
    """
    names = getattr((dataset.features or {}).get(label), "names", None)
    return tuple(map(str, names or ()))


def read_dataset(dataset: Any, label: str | None, split: str) -> FileRows:
    """Return the rows of a dataset. Class numbers become names, and unlabelled rows are left out.

    Args:
        dataset: A `datasets.Dataset`.
        label: Name of the label column, or None if its numbers are to stay.
        split: Name of the split in messages.

    Raises:
        UserError: Most rows lack a label.
    """
    frame = dataset.to_pandas()
    columns = tuple(map(str, frame.columns))
    names = class_names(dataset, label) if label is not None else ()
    if not names:
        return FileRows(frame, columns)

    # Datasets write -1 for a row without a label.
    is_labelled = frame[label].notna() & (frame[label] != -1)
    num_missing = int((~is_labelled).sum())
    if num_missing > MAX_UNLABELLED * len(frame):
        raise UserError(
            f"{num_missing:,} of {len(frame):,} rows of split {split} lack a label (-1). Use a dataset "
            "whose split has labels."
        )

    notes: tuple[str, ...] = ()
    if num_missing:
        notes = (
            f"{num_missing:,} of {len(frame):,} rows of {split} lack a label (-1) and are left out.",
        )
        frame = frame[is_labelled].reset_index(drop=True)
    frame[label] = frame[label].map(dict(enumerate(names)))
    return FileRows(frame, columns, notes, names)

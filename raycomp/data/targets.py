"""Targets of a regression: numbers that fp32 can tell apart, or one message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from raycomp.data.labels import NUMBER
from raycomp.errors import UserError, shown

LARGEST = float(np.finfo(np.float32).max)

MAX_ROUNDING = 0.01
"""Largest rounding of a target to fp32, in deviations of the targets."""


def read_targets(labels: pd.Series[Any], split: str) -> np.ndarray:
    """Return the targets of a regression: (rows,) float64.

    Args:
        labels: Labels of a split without missing ones.
        split: Name of the split in messages.

    Raises:
        UserError: A label is not a finite number of fp32. The message names the row.
    """
    if labels.dtype.kind in "mM":
        # pandas would take them as numbers of nanoseconds, or of another unit of the file.
        raise UserError(
            f"Split {split}, row 0: label {shown(str(labels.iloc[0]), 60)} is a time and not a number. "
            "Regression needs numbers; write the labels as numbers, such as days since a date."
        )

    values = pd.to_numeric(labels, errors="coerce").to_numpy(float, copy=True)
    if labels.dtype == object:
        # pandas takes 1_1 for 11.
        is_text = labels.map(lambda value: isinstance(value, str) and not NUMBER.fullmatch(value))
        values[is_text.to_numpy(bool)] = np.nan

    bad_rows = (~(np.abs(values) <= LARGEST)).nonzero()[0]
    if len(bad_rows):
        row = bad_rows[0]
        raise UserError(
            f"Split {split}, row {row}: label {shown(repr(labels.iloc[row]), 60)} is not a finite "
            f"number of at most {LARGEST:.2g}. Regression needs numbers with a decimal point and without "
            "other signs; correct the label."
        )
    return values


def check_train_targets(targets: np.ndarray) -> None:
    """Refuse targets of train that are all equal, or that fp32 cannot tell apart.

    Args:
        targets: Result of `read_targets` for train.

    Raises:
        UserError: There is nothing to learn from them.
    """
    deviation = float(targets.std())
    if np.ptp(targets) == 0:
        raise UserError(
            f"All rows of train have the label {targets[0]:g}, therefore a regression cannot learn "
            "anything. Check task.label, or add rows with other labels."
        )

    rounding = float(np.abs(targets.astype(np.float32) - targets).max())
    if rounding > MAX_ROUNDING * deviation:
        raise UserError(
            f"The labels of train, {targets.min():.10g} to {targets.max():.10g}, differ too little for "
            f"their size: fp32, which models compute in, rounds them by up to {rounding:.2g}, and their "
            f"deviation is {deviation:.2g}. Subtract a constant from all labels, such as their mean."
        )

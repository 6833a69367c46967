"""Seeded division of a task's rows into splits."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raycomp.errors import UserError


def carve(
    frame: pd.DataFrame, size: float | int, seed: int, setting: str, *, is_classification: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows off from a frame. Rows with equal texts stay together, which prevents leaks.

    Args:
        frame: Checked rows.
        size: Share (below 1) or number of the distinct texts to split off.
        seed: Seed of the draw.
        setting: Key of section `task` that asks for the rows.
        is_classification: Whether labels are classes. Both sides then have the same shares of classes if
            each class has enough rows.

    Returns:
        The other rows, and the rows that were split off.

    Raises:
        UserError: The size leaves too few rows or only one class.
    """
    # The import takes a second. Training workers split no rows, so they never pay for it.
    from sklearn.model_selection import train_test_split

    keys = frame["a"] + "\x00" + frame["b"]
    firsts = ~keys.duplicated()
    groups = frame[firsts]

    count = int(size)
    if size < 1:
        count = round(size * len(groups))
    if setting == "limit" and count >= len(groups):
        return frame.iloc[:0], frame
    if count < 1 or (len(groups) - count < 2 and setting != "limit"):
        raise UserError(
            f"task.{setting} = {size:g} takes {count:,} of the {len(groups):,} distinct training rows. "
            "It must take at least 1 and leave at least 2; change the setting."
        )

    strata = None
    if is_classification and _can_stratify(groups["y"], count):
        strata = groups["y"]
    _, carved_groups = train_test_split(
        np.arange(len(groups)), test_size=count, random_state=seed, stratify=strata
    )

    is_carved = keys.isin(set(keys[firsts].iloc[carved_groups]))
    rest = frame[~is_carved].reset_index(drop=True)
    carved = frame[is_carved].reset_index(drop=True)
    if is_classification and setting != "limit" and rest["y"].nunique() < 2:
        raise UserError(f"task.{setting} = {size:g} leaves only one class in train. Use a smaller value.")
    return rest, carved


def _can_stratify(classes: pd.Series[int], count: int) -> bool:
    """Return whether each class has two rows, and whether both sides have room for each class."""
    smallest_class = classes.value_counts().min()
    smaller_side = min(count, len(classes) - count)
    return bool(smallest_class >= 2 and smaller_side >= classes.nunique())

"""Seeded division of a task's rows into splits.

Two rules exist. Runs of revision 1 (see `raycomp.storage.revision`) keep rows of equal text together.
Later runs keep groups of related texts together.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from raycomp.data.related_texts import group_related
from raycomp.errors import UserError
from raycomp.storage.revision import FIRST_REVISION

MAX_SELECTION = 20_000
"""Largest number of rows where `task.selection` is a share. More rows would hardly change a decision."""

MAX_GROUP_SHARE = 0.1
"""Largest share of the rows to split off that one group may have. Larger groups are divided."""

MIN_LARGEST_GROUP = 10
"""Groups of this size or smaller are never divided."""

VALIDATION_SEED = 20260101
"""Seed of the validation rows of a task without a validation split. It does not depend on `run.seed`:
runs with different seeds are compared on the same rows."""


def carve_validation(
    train: pd.DataFrame, seed: int, revision: int, *, is_classification: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split 10% of the rows off for validation, by the rule of the run's revision.

    Args:
        train: Checked rows.
        seed: `run.seed`, which the rows of revision 1 depend on.
        revision: Revision of the run's rules.
        is_classification: Whether labels are classes.
    """
    if revision == FIRST_REVISION:
        return carve_equal(train, 0.1, seed + 1, "validation", is_classification=is_classification)
    return carve_related(
        train, 0.1, (VALIDATION_SEED,), "validation", is_classification=is_classification
    )


def carve_selection(
    train: pd.DataFrame, size: float, seed: int, revision: int, *, is_classification: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the selection rows off; see `carve_validation`.

    Args:
        train: Checked rows.
        size: Share or number of the rows to split off.
        seed: `run.seed`.
        revision: Revision of the run's rules.
        is_classification: Whether labels are classes.
    """
    if revision == FIRST_REVISION:
        return carve_equal(train, size, seed, "selection", is_classification=is_classification)
    return carve_related(train, size, (seed, 0), "selection", is_classification=is_classification)


def carve_limit(train: pd.DataFrame, limit: int, seed: int, *, is_classification: bool) -> pd.DataFrame:
    """Return rows of at most `limit` distinct texts.

    Args:
        train: Checked rows.
        limit: Largest number of distinct texts.
        seed: `run.seed`.
        is_classification: Whether labels are classes.
    """
    return carve_equal(train, limit, seed + 2, "limit", is_classification=is_classification)[1]


def carve_related(
    frame: pd.DataFrame,
    size: float | int,
    seed: tuple[int, ...],
    setting: str,
    *,
    is_classification: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows off from a frame. Rows with related texts stay together, which prevents leaks.

    A group that is larger than the number of rows that are still needed stays with the other rows.

    Args:
        frame: Checked rows.
        size: Share (below 1) or number of the rows to split off.
        seed: Seed of the draw.
        setting: Key of section `task` that asks for the rows.
        is_classification: Whether labels are classes. Both sides then have the same shares of classes if
            each class has enough rows.

    Returns:
        The other rows, and the rows that were split off.

    Raises:
        UserError: The size leaves too few rows or only one class, or all rows are related.
    """
    count = int(size)
    if size < 1:
        count = min(MAX_SELECTION, round(size * len(frame)))
    if count < 1 or len(frame) - count < 2:
        raise UserError(_explain_count(setting, size, count, len(frame)))

    groups = group_related(frame, max(MIN_LARGEST_GROUP, round(MAX_GROUP_SHARE * count)))
    classes = np.zeros(len(frame), np.int64)
    if is_classification and _can_stratify(frame["y"], count):
        classes = frame["y"].to_numpy(np.int64)
    is_carved = np.isin(groups, _draw_groups(groups, classes, count, np.random.default_rng(seed)))
    if not is_carved.any():
        raise UserError(_explain_groups(setting, size, count, is_one=len(np.unique(groups)) == 1))
    rest = frame[~is_carved].reset_index(drop=True)
    carved = frame[is_carved].reset_index(drop=True)
    _check_classes(rest, size, setting, is_classification=is_classification)
    return rest, carved


def _explain_count(setting: str, size: float, count: int, rows: int) -> str:
    """Return the message about a size that takes too few or too many rows."""
    if setting == "validation":
        # The user has not set this share.
        return (
            f"The task lacks a validation split, and {100 * size:g}% of its {rows:,} training rows are "
            f"{count:,} rows. Set task.validation to a file with other rows, or add training rows."
        )
    return (
        f"task.{setting} = {size:g} takes {count:,} of the {rows:,} training rows. It must take at least "
        "1 and leave at least 2; change the setting."
    )


def _explain_groups(setting: str, size: float, count: int, *, is_one: bool) -> str:
    """Return the message about groups of related texts that are all larger than the rows to split off.

    Args:
        setting: Key of section `task` that asks for the rows.
        size: Share or number of the rows to split off.
        count: Number of the rows to split off.
        is_one: Whether all rows are one group.
    """
    remedy = f"Raise task.{setting}, or remove repeated texts from the training rows."
    subject = f"task.{setting} = {size:g} takes {count:,} rows"
    if setting == "validation":
        remedy = "Set task.validation to a file, or remove repeated texts from the training rows."
        subject = f"The task lacks a validation split, which takes {count:,} of the training rows"
    if is_one:
        return f"{subject}, but all rows are one group of related texts. Check task.text. {remedy}"
    return f"{subject}, but every group of related texts is larger. {remedy}"


def _draw_groups(
    groups: np.ndarray, classes: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw groups with at most `count` rows in all, with the classes' shares where groups allow it.

    Args:
        groups: (rows,) group of each row.
        classes: (rows,) class of each row.
        count: Number of rows to draw.
        rng: Random generator.
    """
    sizes = np.bincount(groups)
    order = np.argsort(groups, kind="stable")
    rows_of = np.split(order, np.cumsum(sizes)[:-1])

    num_left = np.bincount(classes)
    quotas = _quotas(num_left, count)
    num_needed = count
    drawn_groups: list[int] = []
    candidates = rng.permutation(len(sizes))

    # In the second round, groups may exceed the share of a class: groups of several classes leave gaps.
    for keeps_shares in (True, False):
        skipped: list[int] = []
        for group in candidates:
            if num_needed == 0:
                break
            size_of = np.bincount(classes[rows_of[group]], minlength=len(num_left))
            # The other rows keep at least one of each class.
            is_fitting = sizes[group] <= num_needed and bool((size_of < num_left)[size_of > 0].all())
            if keeps_shares:
                is_fitting = is_fitting and bool((size_of <= quotas).all())
            if not is_fitting:
                skipped.append(int(group))
                continue
            drawn_groups.append(int(group))
            quotas = quotas - size_of
            num_left = num_left - size_of
            num_needed -= int(sizes[group])
        candidates = np.array(skipped, np.int64)
    return np.array(drawn_groups, np.int64)


def _quotas(totals: np.ndarray, count: int) -> np.ndarray:
    """Return the rows to draw of each class: proportional to its total, and `count` in all."""
    exact = totals * (count / totals.sum())
    quotas = np.floor(exact).astype(np.int64)
    remainder = count - int(quotas.sum())
    largest = np.argsort(quotas - exact, kind="stable")[:remainder]
    quotas[largest] += 1
    return quotas


def carve_equal(
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
    if setting != "limit":
        _check_classes(rest, size, setting, is_classification=is_classification)
    return rest, carved


def _check_classes(rest: pd.DataFrame, size: float, setting: str, *, is_classification: bool) -> None:
    """Check that the training rows have two classes.

    Raises:
        UserError: They have only one.
    """
    if is_classification and rest["y"].nunique() < 2:
        raise UserError(f"task.{setting} = {size:g} leaves only one class in train. Use a smaller value.")


def halve(frame: pd.DataFrame, split: str, half: str) -> pd.DataFrame:
    """Return half "a" or "b" of a frame. A hash of its texts decides the half of a row.

    The half of a row does not depend on other rows, seeds or versions.

    Args:
        frame: Checked rows.
        split: Name of the split.
        half: "a" or "b".

    Raises:
        UserError: The half lacks rows.
    """
    keys = frame["a"] + "\x00" + frame["b"]
    bits = keys.map(lambda text: hashlib.sha256(text.encode()).digest()[0] & 1)
    rows = frame[bits == "ab".index(half)].reset_index(drop=True)
    if rows.empty:
        raise UserError(
            f"task.validation_half = '{half}' leaves no rows of {split}, which has {len(frame):,} rows. "
            "Remove the setting, or use more validation rows."
        )
    return rows


def _can_stratify(classes: pd.Series[int], count: int) -> bool:
    """Return whether each class has two rows, and whether both sides have room for each class."""
    smallest_class = classes.value_counts().min()
    smaller_side = min(count, len(classes) - count)
    return bool(smallest_class >= 2 and smaller_side >= classes.nunique())

"""Rows of a held-out split that are also training rows: a score on them measures memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from raycomp.data.labels import plain_form
from raycomp.errors import UserError

# A held-out split with a larger share of training rows is refused.
MAX_SHARED = 0.5


def row_keys(frame: pd.DataFrame) -> np.ndarray:
    """Return a hash of the texts of each row, without case and blanks: (rows,) uint64.

    Args:
        frame: Rows with the texts in columns a and b.
    """
    texts = [
        f"{_plain(first)}\x00{_plain(second)}"
        for first, second in zip(frame["a"], frame["b"], strict=True)
    ]
    return pd.util.hash_array(np.array(texts, dtype=object), categorize=False)


def _plain(text: str) -> str:
    # The same letters can be written as other characters, such as an accent of its own.
    form = text.casefold() if text.isascii() else plain_form(text)
    return "".join(form.split())


def count_shared_rows(train_keys: np.ndarray, frame: pd.DataFrame) -> int:
    """Return the number of rows of a frame whose texts are also in train.

    Args:
        train_keys: Result of `row_keys` for train.
        frame: Rows of another split.
    """
    return int(np.isin(row_keys(frame), train_keys).sum())


def check_shared_rows(shared_rows: Mapping[str, int], num_rows: Mapping[str, int]) -> None:
    """Refuse a held-out split if most of its rows are also in train.

    Args:
        shared_rows: Split -> number of its rows that are in train.
        num_rows: Split -> number of its rows.

    Raises:
        UserError: A split has too many of them.
    """
    for name, count in shared_rows.items():
        if count > MAX_SHARED * num_rows[name]:
            raise UserError(
                f"{count:,} of {num_rows[name]:,} rows of {name} are also in train (texts compared "
                "without case and blanks). A score on them would measure memory. Set task.validation to "
                "other rows, or leave it out, or accept it with task.allow_shared_rows = true."
            )

"""The Pareto front against its definition."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from raycomp.errors import UserError
from raycomp.report import find_pareto_front

# Few values, so that ties are common; NaN and infinities among them.
FIGURES = [0.0, 1.0, 2.0, 3.0, math.inf, -math.inf, math.nan]


def test_the_front_has_exactly_the_rows_that_no_other_dominates() -> None:
    # hypothesis takes longer to import than these draws take.
    rng = np.random.default_rng(0)
    check_front([])
    for _ in range(150):
        draws = rng.choice(FIGURES, (int(rng.integers(1, 13)), 2))
        check_front([(float(v), float(p)) for v, p in draws])


def check_front(rows: list[tuple[float, float]]) -> None:
    """Compare the front of some rows with the definition."""
    frame = pd.DataFrame(rows, columns=["validation", "params"], dtype=float)
    comparable = [(i, v, p) for i, (v, p) in enumerate(rows) if not (math.isnan(v) or math.isnan(p))]
    expected = [
        i
        for i, v, p in comparable
        if not any(w >= v and q <= p and (w > v or q < p) for _, w, q in comparable)
    ]
    front = find_pareto_front(frame)
    assert sorted(front.index) == expected
    assert front["params"].is_monotonic_increasing
    pd.testing.assert_frame_equal(front.sort_index(), frame.loc[expected])


def test_ties_are_all_kept_in_the_order_given() -> None:
    frame = pd.DataFrame({"name": list("abcd"), "f1": [2, 1, 2, 2], "flops": [5, 1, 5, 6]})
    assert find_pareto_front(frame, "f1", "flops")["name"].tolist() == ["b", "a", "c"]


def test_an_unknown_column_names_the_nearest_and_text_is_refused() -> None:
    frame = pd.DataFrame({"validation": [1.0], "params": ["x"]})
    with pytest.raises(UserError, match="Did you mean 'validation'"):
        find_pareto_front(frame, "validatoin")
    with pytest.raises(UserError, match="'params' does not contain numbers"):
        find_pareto_front(frame)
    assert find_pareto_front(frame.iloc[:0].astype(float)).empty

"""The difference between searchers, with an interval that holds for few searches."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.intervals import student_interval
from benchmarks.search_choice import summarise


def test_the_difference_from_random_search_is_paired_with_students_interval() -> None:
    differences = [0.01, -0.004, 0.02, 0.008, 0.0, 0.014]
    rows = [
        {
            "seed": seed, "searcher": searcher, "smoothing": 0.5, "selection": 0.4, "score": 0.8,
            "heldout": seed + (difference if searcher == "rated" else 0.0),
        }
        for seed, difference in enumerate(differences)
        for searcher in ("random", "rated")
    ]  # fmt: skip
    table = summarise(pd.DataFrame(rows), 0.5).set_index("searcher")
    low, high = student_interval(differences)
    assert table.loc["rated", ["low", "high"]].tolist() == pytest.approx([low, high])
    assert table.loc["rated", "difference"] == pytest.approx(0.008)
    # A percentile bootstrap over six searches gives about .001 to .015 here.
    assert low < 0 < 0.017 < high
    assert table.loc["random", ["difference", "low", "high"]].tolist() == [0, 0, 0]

"""The helper for many small checks fails with the names of all that are wrong, and if there are none."""

from __future__ import annotations

import pytest

from tests.check_all import check_all


def refuse_odd(number: int) -> None:
    if number % 2:
        raise ValueError(f"{number} is odd")


def test_all_wrong_items_are_named() -> None:
    check_all([("two", 2), ("four", 4)], refuse_odd)
    with pytest.raises(AssertionError, match=r"one: ValueError: 1 is odd\nthree: ValueError: 3 is odd"):
        check_all([("one", 1), ("two", 2), ("three", 3)], refuse_odd)


def test_no_item_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="nothing was checked"):
        check_all([], refuse_odd)

"""One test for many small checks: pytest needs more time for a test than such a check takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def check_all(items: Iterable[tuple[str, Item]], check: Callable[[Item], object]) -> None:
    """Check all items, and fail with the names and messages of those whose check raises.

    Args:
        items: Name and value of each item; at least one.
        check: Function that raises if a value is wrong.
    """
    failures = []
    num_items = 0
    for name, item in items:
        num_items += 1
        try:
            check(item)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    assert failures == [], "\n".join(failures)
    assert num_items > 0, "nothing was checked"

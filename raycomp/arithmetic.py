"""Integer arithmetic that several packages need."""

from __future__ import annotations


def ceil_div(dividend: int, divisor: int) -> int:
    """Return the quotient, rounded up.

    Args:
        dividend: Any integer.
        divisor: An integer above 0.

    Example:
        >>> ceil_div(10, 4)
        3
    """
    return -(-dividend // divisor)

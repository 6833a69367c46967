"""The line that corrects sums of layers, and figures of layers in the order of their widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LINE_NETWORKS = 3
"""Fewest whole networks for a line with an offset. With fewer of them it is a scale."""


@dataclass(frozen=True)
class Line:
    """A correction: `offset + scale * sum`."""

    offset: float
    scale: float

    def at(self, value: float) -> float:
        """Return the corrected value; a time or a size is not negative."""
        return max(0.0, self.offset + self.scale * value)


def fit_line(sums: Sequence[float], measured: Sequence[float]) -> Line:
    """Return the line with the smallest squared relative error.

    With fewer than `LINE_NETWORKS` points, or where the line would fall, it passes through 0.
    """
    x = np.array(sums, np.float64)
    y = np.array(measured, np.float64)

    if len(x) >= LINE_NETWORKS:
        # Each row is divided by the measured value: small networks count as much as large ones.
        rows = np.stack([1 / y, x / y], axis=1)
        offset, scale = (float(v) for v in np.linalg.lstsq(rows, np.ones_like(y), rcond=None)[0])
        # A falling line would make larger networks look faster, and the search would never stop growing.
        if scale > 0:
            return Line(offset, scale)

    # Two points fix a line that a third one would refute.
    return Line(0.0, float(np.median(y / x)))


def make_monotone(values: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Return values that never fall with heads or neurons: the search relies on it.

    Each is the mean of the largest value of a smaller layer and the smallest value of a larger one.
    Values that are in order already stay as they are.
    """

    def envelope(layer: tuple[int, int], choose: Callable[[list[float]], float], sign: int) -> float:
        return choose(
            [
                value
                for (heads, ffn), value in values.items()
                if sign * (layer[0] - heads) >= 0 and sign * (layer[1] - ffn) >= 0
            ]
        )

    return {layer: (envelope(layer, max, 1) + envelope(layer, min, -1)) / 2 for layer in values}

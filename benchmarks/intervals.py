"""Intervals of a mean over few repetitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def student_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return Student's 95% interval of the mean of independent values; nan with fewer than two.

    A percentile bootstrap over few values is too narrow: over six normal values it covers the mean in
    about 85% of cases instead of 95%.

    Args:
        values: (repetitions,).
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return math.nan, math.nan
    mean = float(values.mean())
    error = float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return mean - error, mean + error

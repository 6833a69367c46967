"""Units of a regression: training sees standardised targets, a user sees the targets as written.

The squared error of prices around 200,000 cannot be trained at a usual learning rate, because even the
bias needs thousands of steps. Within a run all targets and all outputs therefore have mean 0 and
deviation 1 over the training rows. Metrics, saved predictions and exported models have the user's units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TargetScaling:
    """Mean and deviation of the training targets; 0 and 1 for classification.

    >>> scaling = TargetScaling(mean=10.0, deviation=2.0)
    >>> scaling.standardise(np.array([8.0, 10.0, 14.0]))
    array([-1.,  0.,  2.])
    >>> scaling.restore(scaling.standardise(np.array([8.0, 10.0, 14.0])))
    array([ 8., 10., 14.])
    """

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, targets: np.ndarray) -> TargetScaling:
        """Return the scaling of training targets: (rows,) floats.

        Equal targets keep their deviation of 1: nothing could be divided by 0.
        """
        # In fp64: the squares of large targets lose digits in fp32.
        values = np.asarray(targets, np.float64)
        return cls(float(values.mean()), float(values.std()) or 1.0)

    @property
    def is_identity(self) -> bool:
        """Whether values stay as they are."""
        return self.mean == 0.0 and self.deviation == 1.0

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Return values in the user's units as values with mean 0 and deviation 1, of the same type."""
        if self.is_identity:
            return values
        return ((values.astype(np.float64) - self.mean) / self.deviation).astype(values.dtype)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Return standardised values in the user's units, of the same type."""
        if self.is_identity:
            return values
        return (values.astype(np.float64) * self.deviation + self.mean).astype(values.dtype)


IDENTITY = TargetScaling()
"""Scaling of classes, and of regression in runs of versions that did not standardise."""

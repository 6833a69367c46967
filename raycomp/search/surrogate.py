"""A model of the loss on the selection split, fitted to the networks that have a score.

The deployment search rates many candidates with it, and has only the best-rated scored. The choice among
scored networks uses it too: the largest of many noisy scores is more often lucky than best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.effects import EffectPosterior, choice_regressors, fit_effects
from raycomp.search.space import SearchSpace

LEAST_SCORES = 8
"""Scored networks from which on the model is fitted; with fewer, theta rates."""

BANDWIDTH = 0.3
"""Relative distance from the limit at which a network counts about .6 of one at the limit."""


class Surrogate:
    """Predicts the loss of networks near one budget from their choices, their cost and theta.

    The model is a constant, a slope in cost, a slope in theta's rating, and an effect of each choice. The
    effects are shrunk towards 0 by `fit_effects`, so few scores change theta's rating little.

    Attributes:
        is_fitted: Whether enough networks have a score.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: SearchBudget,
        theta: ArchitectureDistribution | None = None,
        joint: bool = False,
    ) -> None:
        """Prepare a model without scores.

        Args:
            space: The search space.
            budget: Budget whose limit the model is centred at.
            theta: Trained distribution, or None.
            joint: Whether one variable of theta is heads and FFN of a layer together.
        """
        self.is_fitted = False
        self._space = space
        self._budget = budget
        self._theta = theta
        self._joint = joint
        self._is_open = ArchitectureDistribution(space.variables()).open
        self._slopes = np.zeros(0)
        self._posterior: EffectPosterior | None = None

    def fit(self, archs: Sequence[Architecture], losses: Sequence[float]) -> None:
        """Fit the model to scored networks; those far from the limit count less.

        Args:
            archs: Different architectures.
            losses: Loss of each on the selection split.
        """
        observed = np.asarray(losses, np.float64)
        is_finite = np.isfinite(observed)
        self.is_fitted = int(is_finite.sum()) >= LEAST_SCORES
        if not self.is_fitted:
            return

        usable = [arch for arch, finite in zip(archs, is_finite, strict=True) if finite]
        relative = np.array([self._budget.cost(arch) for arch in usable]) / self._budget.limit - 1.0
        weights = np.exp(-0.5 * (relative / BANDWIDTH) ** 2)
        roots = np.sqrt(np.maximum(weights, 1e-6))[:, None]
        trend, choices = self._columns(usable)
        trend, choices, target = trend * roots, choices * roots, observed[is_finite] * roots[:, 0]

        # The prior of the trend is flat: it is taken out of everything else first (Frisch-Waugh-Lovell).
        inverse = np.linalg.pinv(trend)
        choices_left = choices - trend @ (inverse @ choices)
        target_left = target - trend @ (inverse @ target)
        count = max(0.0, float(weights.sum()) - trend.shape[1])
        self._posterior = fit_effects(
            choices_left.T @ choices_left,
            choices_left.T @ target_left,
            float(target_left @ target_left),
            count,
        )
        self._inverse = inverse
        self._weighted_target = target
        self._weighted_choices = choices

    def predict(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return the expected loss of architectures, (archs,); minus theta's rating before `fit`."""
        if self._posterior is None:
            return -self._rating(archs)
        return self._losses(archs, self._posterior.mean[None])[0]

    def draw(self, archs: Sequence[Architecture], rng: np.random.Generator, count: int) -> np.ndarray:
        """Return losses under `count` draws of the effects from their posterior: (count, archs)."""
        if self._posterior is None:
            return np.repeat(-self._rating(archs)[None], count, 0)
        return self._losses(archs, self._posterior.draw(rng, count))

    def _losses(self, archs: Sequence[Architecture], effects: np.ndarray) -> np.ndarray:
        trend, choices = self._columns(archs)
        # The trend that fits best, given the effects: (trend columns, draws).
        slopes = self._inverse @ (self._weighted_target[:, None] - self._weighted_choices @ effects.T)
        losses: np.ndarray = (trend @ slopes + choices @ effects.T).T
        return losses

    def _columns(self, archs: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return the trend columns (archs, 2 or 3), and the columns of the choices (archs, features)."""
        rows = np.stack([self._space.encode(arch) for arch in archs])
        costs = np.array([self._budget.cost(arch) for arch in archs]) / self._budget.limit - 1.0
        trend = [np.ones(len(archs)), costs]
        if self._theta is not None:
            trend.append(self._rating(archs))
        return np.column_stack(trend), choice_regressors(rows, self._is_open)

    def _rating(self, archs: Sequence[Architecture]) -> np.ndarray:
        if self._theta is None:
            return np.zeros(len(archs))
        rows = np.stack([self._space.encode(arch, self._joint) for arch in archs])
        return self._theta.rating(rows)

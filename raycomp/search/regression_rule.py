"""The update rule "regression": theta from a linear model of all losses, not from ranks of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.effects import PairedRegression, choice_regressors

REFIT_STEPS = 10
"""Steps between two fits of the model."""

MEMORY_STEPS = 4000
"""Steps after which an observation counts 1/e: the weights that it was made with have changed."""


class RegressionRule:
    """Estimates the effect of each choice on the loss at equal cost, and sets theta from the effects.

    The ranked rules keep one bit of each pair of losses, and none of exploration steps. This rule keeps
    the sizes of all differences, `raycomp.search.effects`. The probability of choice j of a variable is

        theta_j = exp(-effect_j / T) / sum_k exp(-effect_k / T),

    where T is the deviation of the effects' posterior: theta leaves the uniform distribution as far as
    the losses show effects beyond their noise.

    Attributes:
        regression: The normal equations.
        posterior: The effects at the last fit.
    """

    def __init__(
        self,
        dist: ArchitectureDistribution,
        costs: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        refit_steps: int = REFIT_STEPS,
        memory_steps: int = MEMORY_STEPS,
    ) -> None:
        """Start without observations.

        Args:
            dist: Distribution that the rule will update.
            costs: From choice indices (samples, variables) to costs (samples,); None where cost is not
                a regressor.
            refit_steps: Steps between two fits.
            memory_steps: Steps after which an observation counts 1/e.
        """
        self.regression = PairedRegression(dist.theta.size)
        self.posterior = self.regression.fit()
        self._costs = costs
        self._refit_steps = refit_steps
        self._forgotten = 1.0 / memory_steps
        self._steps = 0

    def update(
        self,
        dist: ArchitectureDistribution,
        indices: np.ndarray,
        losses: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Add a step, and set theta every `refit_steps` steps; see `UpdateRule.update`.

        The weights are not used: which distribution drew a sample does not bias a regression.
        """
        self._steps += 1
        is_finite = np.isfinite(losses)
        if is_finite.sum() > 1:
            costs = np.zeros(len(losses)) if self._costs is None else self._costs(indices)
            regressors = choice_regressors(indices, dist.open)
            self.regression.forget(self._forgotten)
            self.regression.add(regressors[is_finite], costs[is_finite], losses[is_finite])
        if self._steps % self._refit_steps == 0:
            self.posterior = self.regression.fit()
            self._set_theta(dist)

    @property
    def confidence(self) -> float:
        """Posterior probability that choices have effects, from 0 to 1; the controller acts on it."""
        return self.posterior.probability

    def _set_theta(self, dist: ArchitectureDistribution) -> None:
        effects = self.posterior.mean.reshape(dist.theta.shape)
        temperature = self.posterior.deviation
        scaled = -effects / temperature if temperature > 0 else np.zeros_like(effects)
        scaled = np.where(dist.open, scaled, -np.inf)
        theta = np.exp(scaled - scaled.max(1, keepdims=True))
        dist.theta = theta / theta.sum(1, keepdims=True)
        dist.apply_lower_bounds()

    def state_dict(self) -> dict[str, Any]:
        """Return the normal equations and the number of steps."""
        return {"regression": self.regression.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.regression.load_state_dict(state["regression"])
        self._steps = state["steps"]
        self.posterior = self.regression.fit()

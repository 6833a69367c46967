"""Effects of architecture choices on the loss, estimated from networks that were scored on equal batches.

The model is linear: the loss of an architecture on a batch is a constant of the batch, plus the effect
of each choice, plus a slope times its cost, plus noise. The batch constant drops out of the differences
between the architectures of one step, so a step with S architectures gives S - 1 observations. The
effects have the prior N(0, tau^2), the slope a flat one: "larger is better" counts as cost, not as
quality.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LOG_RATIO_GRID = np.linspace(math.log(1e-4), math.log(1e4), 65)
"""Logarithms of the ratios noise variance / effect variance, in units of the largest eigenvalue of the
normal equations."""


@dataclass(frozen=True)
class EffectPosterior:
    """The estimated effects, a Gaussian.

    Attributes:
        mean: (features,): expected effects.
        directions: (features, features): eigenvectors of the covariance, one per column.
        deviations: (features,): standard deviations along the eigenvectors.
        noise: Variance of an observation that the effects leave unexplained.
        evidence: Logarithm of the Bayes factor of effects against no effects.
    """

    mean: np.ndarray
    directions: np.ndarray
    deviations: np.ndarray
    noise: float
    evidence: float

    @property
    def probability(self) -> float:
        """Posterior probability that there are effects, if both were equally probable before."""
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, self.evidence))))

    @property
    def deviation(self) -> float:
        """Root mean square of the standard deviations."""
        return math.sqrt(float((self.deviations**2).mean()))

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw effects from the posterior: (count, features)."""
        standard = rng.normal(size=(count, len(self.mean)))
        draws: np.ndarray = self.mean + (standard * self.deviations) @ self.directions.T
        return draws


def fit_effects(matrix: np.ndarray, vector: np.ndarray, total: float, count: float) -> EffectPosterior:
    """Return the posterior of the effects in a linear model with Gaussian noise.

    The ratio of the noise's variance to the effects' is unknown. The posterior is the mean over a grid of
    ratios, each weighted by how likely it makes the observations, under a log-uniform prior. The noise's
    variance is the likeliest one for each ratio.

    Args:
        matrix: (features, features): sum of the products of the regressors.
        vector: (features,): sum of regressor times observation.
        total: Sum of the squared observations.
        count: Number of observations.
    """
    features = len(vector)
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0.0)
    scale = float(values[-1])
    if count < 2 or total <= 0 or scale <= 0:
        noise = total / count if count > 0 else 0.0
        return EffectPosterior(np.zeros(features), vectors, np.zeros(features), noise, 0.0)

    projected = vectors.T @ vector
    ratios = np.exp(LOG_RATIO_GRID) * scale
    shrunk = values + ratios[:, None]
    residuals = np.maximum(total - (projected**2 / shrunk).sum(1), 1e-12 * total)
    # Logarithm of the Bayes factor against the model without effects.
    evidence = 0.5 * np.log(ratios[:, None] / shrunk).sum(1) - 0.5 * count * np.log(residuals / total)
    largest = float(evidence.max())
    weights = np.exp(evidence - largest)
    factor = largest + math.log(float(weights.mean()))
    weights = (weights / weights.sum())[:, None]

    noises = residuals[:, None] / count
    means = projected / shrunk
    mean = (weights * means).sum(0)
    variances = (weights * (noises / shrunk + (means - mean) ** 2)).sum(0)
    noise = float((weights * noises).sum())
    return EffectPosterior(vectors @ mean, vectors, np.sqrt(variances), noise, factor)


class PairedRegression:
    """Normal equations of the differences between architectures that were scored on the same batch.

    `add` takes one step; `fit` solves. Older steps can count less (`forget`), because the weights that
    they were scored with have changed.

    Attributes:
        features: Number of choices of all variables.
        matrix: (features + 1, features + 1): sum of the products of the regressors; cost is the last.
        vector: (features + 1,): sum of regressor times difference in loss.
        total: Sum of the squared differences in loss.
        count: Number of observations, each as much as it still counts.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.matrix = np.zeros((features + 1, features + 1))
        self.vector = np.zeros(features + 1)
        self.total = 0.0
        self.count = 0.0

    def add(self, regressors: np.ndarray, costs: np.ndarray, losses: np.ndarray) -> None:
        """Add the architectures of one step.

        Args:
            regressors: (samples, features), see `choice_regressors`.
            costs: (samples,), in any unit, the same in all calls.
            losses: (samples,), all finite.
        """
        columns = np.column_stack([regressors, costs])
        # The differences from the step's mean: the batch constant drops out.
        columns = columns - columns.mean(0)
        deviations = losses - losses.mean()
        self.matrix += columns.T @ columns
        self.vector += columns.T @ deviations
        self.total += float(deviations @ deviations)
        self.count += len(losses) - 1

    def forget(self, share: float) -> None:
        """Let all observations so far count less, by `share` of their weight (0 to 1)."""
        weight = 1.0 - share
        self.matrix *= weight
        self.vector *= weight
        self.total *= weight
        self.count *= weight

    def fit(self) -> EffectPosterior:
        """Return the posterior of the effects at equal cost, see `fit_effects`."""
        return fit_effects(*self._without_cost())

    def _without_cost(self) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Return the normal equations after cost is projected out (Frisch-Waugh-Lovell)."""
        variance = float(self.matrix[-1, -1])
        if variance <= 0:
            return self.matrix[:-1, :-1], self.vector[:-1], self.total, self.count
        by_cost = self.matrix[:-1, -1]
        slope = self.vector[-1] / variance
        matrix = self.matrix[:-1, :-1] - np.outer(by_cost, by_cost) / variance
        vector = self.vector[:-1] - by_cost * slope
        total = self.total - self.vector[-1] * slope
        return matrix, vector, total, self.count - 1

    def state_dict(self) -> dict[str, Any]:
        """Return the normal equations as JSON-able values that round-trip bit for bit."""
        numbers = np.concatenate([self.matrix.ravel(), self.vector, [self.total, self.count]])
        return {"numbers": base64.b64encode(numbers.astype("<f8").tobytes()).decode("ascii")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            ValueError: The state has another number of features.
        """
        numbers = np.frombuffer(base64.b64decode(state["numbers"]), "<f8").astype(np.float64)
        size = self.features + 1
        if len(numbers) != size * size + size + 2:
            raise ValueError("the state belongs to another search space")
        self.matrix = numbers[: size * size].reshape(size, size).copy()
        self.vector = numbers[size * size : size * size + size].copy()
        self.total = float(numbers[-2])
        self.count = float(numbers[-1])


def choice_regressors(indices: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """Return one column per choice: 1 - 1/C where it is chosen, -1/C where another one is, else 0.

    C is the number of open choices of the variable. Variables of layers that do not run are 0, which is
    the mean effect of their choices.

    Args:
        indices: (samples, variables) choice indices, -1 where a layer does not run.
        is_open: (variables, choices), whether a choice is open.

    Returns:
        (samples, variables * choices).
    """
    is_choice = indices[:, :, None] == np.arange(is_open.shape[1])
    active = (indices >= 0)[:, :, None] & is_open
    centred = is_choice - 1.0 / is_open.sum(1)[:, None]
    return np.where(active, centred, 0.0).reshape(len(indices), -1)

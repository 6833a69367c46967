"""theta, the architecture distribution: independent categoricals over the choices of each variable.

Choices that the current phase keeps closed have probability 0 and take no part in entropy, bounds or
updates. A choice that opens gets the mass 1/m (m = open choices); the others share the rest in their old
proportions.

One array has all variables, (variables, choices). A row with fewer choices than the longest one ends in
choices that are closed forever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.search.space import SearchSpace, Variable


class ArchitectureDistribution:
    """P_theta(m) = product of p_theta_i(o_i): one row of probabilities per variable (YOCO-BERT, Eq. 3).

    Attributes:
        variables: The variables, one per row.
        exists: (variables, choices): whether a variable has that many choices.
        open: (variables, choices): whether a choice is open.
        theta: (variables, choices) float64; each row sums to 1 and is 0 beyond the variable's choices.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        """Start uniform, with all choices open."""
        self.variables = tuple(variables)
        counts = np.array([len(v.choices) for v in self.variables])
        self.exists: np.ndarray = np.arange(counts.max()) < counts[:, None]
        self.open: np.ndarray = self.exists.copy()
        self.theta: np.ndarray = self.exists / counts[:, None]

    def set_open(self, masks: Sequence[np.ndarray]) -> None:
        """Open and close choices; a newly opened one gets the mass 1/m.

        Args:
            masks: Whether each choice is open, (choices,) for each variable.

        Raises:
            ValueError: All choices of a variable are closed.
        """
        mask = self._pad(masks).astype(bool)
        count = mask.sum(1, keepdims=True)
        if not count.all():
            raise ValueError(f"all choices of {self.variables[int(count.argmin())].name} are closed")

        is_new = mask & ~self.open
        old = np.where(mask & self.open, self.theta, 0.0)
        old_total = old.sum(1, keepdims=True)
        share_of_old = 1.0 - is_new.sum(1, keepdims=True) / count
        scaled = old * (share_of_old / np.where(old_total > 0, old_total, 1.0))
        opened = np.where(is_new, 1.0 / count, scaled)
        # Where no choice stays open, the new ones are uniform.
        self.theta = np.where(old_total > 0, opened, mask / count)
        self.open = mask

    def lower_bounds(self) -> np.ndarray:
        """Return theta_min: 1 / (variables * (open choices - 1)), at most half of 1/C: (variables,)."""
        count = self.open.sum(1)
        bound = 1.0 / (len(self.variables) * np.maximum(count - 1, 1))
        return np.where(count < 2, 0.0, np.minimum(bound, 0.5 / count))

    def apply_lower_bounds(self) -> None:
        """Lift every open choice to its lower bound; the others give up the excess."""
        low = self.lower_bounds()[:, None]
        count = self.open.sum(1, keepdims=True)
        above = np.where(self.open, np.maximum(self.theta, low) - low, 0.0)
        total = above.sum(1, keepdims=True)
        lifted = low + above * ((1.0 - low * count) / np.where(total > 0, total, 1.0))
        bounded = np.where(total > 0, lifted, 1.0 / count)
        self.theta = np.where(self.open, bounded, 0.0)

    def sample(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw one choice index per variable from theta.

        Args:
            rng: Random generator.
            count: Number of samples; they are the same as those of `count` calls in turn.

        Returns:
            (variables,), or (count, variables) with `count`.
        """
        return _draw(self.theta, rng, count)

    def sample_uniform(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw from pi, uniform over the open choices of each variable; see `sample`."""
        return _draw(self.open / self.open.sum(1, keepdims=True), rng, count)

    def log_ratio(self, indices: np.ndarray) -> float:
        """Return ln P_theta(m) - ln pi(m) of a sample.

        Args:
            indices: (variables,) choice indices; variables at -1 (layers that do not run) are left out.
        """
        indices = np.asarray(indices)
        active = np.flatnonzero(indices >= 0)
        p = np.maximum(self.theta[active, indices[active]], 1e-300)
        return float(np.log(p * self.open[active].sum(1)).sum())

    def rating(self, rows: np.ndarray) -> np.ndarray:
        """Return how much theta prefers samples to the average of their choices, in nats: (samples,).

        The sum over the active variables of ln theta, minus its mean over the variable's open choices.
        Unlike `log_ratio` it is 0 on average for every number of layers.

        Args:
            rows: (samples, variables) choice indices; variables at -1 are left out.
        """
        logs = np.where(self.open, np.log(np.maximum(self.theta, 1e-300)), 0.0)
        means = logs.sum(1, keepdims=True) / self.open.sum(1, keepdims=True)
        centred = np.where(self.open, logs - means, 0.0)
        row_logs = np.take_along_axis(centred[None], np.maximum(rows, 0)[:, :, None], axis=2)[:, :, 0]
        ratings: np.ndarray = np.where(rows >= 0, row_logs, 0.0).sum(1)
        return ratings

    def mode(self) -> np.ndarray:
        """Return the most probable choice of each variable: (variables,)."""
        return self.theta.argmax(1)

    def entropy(self) -> float:
        """Return rho, the sum of the variables' entropies, in nats."""
        p = self.theta[self.theta > 0]
        return float(-(p * np.log(p)).sum())

    def max_entropy(self) -> float:
        """Return rho_max, the sum of the logarithms of the numbers of open choices, in nats."""
        return float(np.log(self.open.sum(1)).sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON-able values; floats round-trip bit for bit."""
        sizes = [len(v.choices) for v in self.variables]
        theta = [row[:size] for row, size in zip(self.theta.tolist(), sizes, strict=True)]
        is_open = [row[:size] for row, size in zip(self.open.tolist(), sizes, strict=True)]
        return {"theta": theta, "open": is_open}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: The state has other variables.
        """
        self.theta = self._pad(state["theta"])
        self.open = self._pad(state["open"]).astype(bool)

    def _pad(self, rows: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
        """Return rows of each variable's length as one array, (variables, choices), padded by 0."""
        if [len(row) for row in rows] != [len(v.choices) for v in self.variables]:
            raise ValueError("the state belongs to another search space")
        padded = np.zeros(self.exists.shape)
        padded[self.exists] = np.concatenate([np.asarray(row, np.float64) for row in rows])
        return padded


def _draw(p: np.ndarray, rng: np.random.Generator, count: int | None) -> np.ndarray:
    """Invert each row's distribution function at uniform numbers; never a choice of probability 0.

    Args:
        p: (variables, choices) probabilities.
        rng: Random generator.
        count: Number of samples; None is one, without its dimension.
    """
    cumulated = p.cumsum(1)
    draws = rng.random((1 if count is None else count, len(p)))
    above = (cumulated <= (draws * cumulated[:, -1])[..., None]).sum(2)
    # The first choice whose cumulated probability is above the draw has a probability above 0. Only
    # rounding can put the draw above all of them; then the last such choice is taken.
    last = p.shape[1] - 1 - (p[:, ::-1] > 0).argmax(1)
    samples = np.minimum(above, last)
    return samples[0] if count is None else samples


def _with_uniform_table(space: SearchSpace, state: dict[str, Any]) -> dict[str, Any]:
    """Return a trained state with a uniform row for the word table, which the training did not draw."""
    count = len(space.tables)
    if count == 1:
        return state
    return {
        "theta": [*state["theta"], [1 / count] * count],
        "open": [*state["open"], [True] * count],
    }


def load_distribution(space: SearchSpace, state: dict[str, Any]) -> tuple[ArchitectureDistribution, bool]:
    """Return the trained distribution of an EE-SNG state with all choices open, and its joint flag."""
    joint = bool(state["joint"])
    theta = ArchitectureDistribution(space.variables(joint))
    theta.load_state_dict(_with_uniform_table(space, state["dist"]))
    # A phase of 0 steps may have left choices closed; deployment may use them all.
    theta.set_open([np.ones(len(v.choices), bool) for v in theta.variables])
    theta.apply_lower_bounds()
    return theta, joint

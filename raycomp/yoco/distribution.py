"""theta: independent categoricals over the choices of each variable.

Choices that the current phase keeps closed have probability 0 and take no part in entropy, bounds
or updates. A choice that opens gets the mass 1/m (m = open choices), the others share the rest in
their old proportions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.yoco.space import Variable


class Categoricals:
    """P_theta(m) = product of p_theta_i(o_i): one probability vector per variable.

    Attributes:
        theta: one float64 vector per variable, sums to 1.
        open: one boolean vector per variable: which choices are open.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = tuple(variables)
        self.open = [np.ones(len(v.choices), bool) for v in self.variables]
        self.theta = [np.full(len(v.choices), 1 / len(v.choices)) for v in self.variables]

    def set_open(self, masks: Sequence[np.ndarray]) -> None:
        """Open and close choices; a newly opened one gets the mass 1/m."""
        for i, mask in enumerate(masks):
            if not mask.any():
                raise ValueError(f"no choice of {self.variables[i].name} is open")
            new = mask & ~self.open[i]
            kept = np.where(mask & self.open[i], self.theta[i], 0.0)
            share = 1.0 / int(mask.sum())
            room = 1.0 - share * int(new.sum())
            if kept.sum() > 0:
                kept *= room / kept.sum()
            self.theta[i] = np.where(new, share, kept)
            if kept.sum() == 0:
                self.theta[i] = mask / int(mask.sum())
            self.open[i] = mask.copy()

    def theta_min(self, i: int) -> float:
        """Lower bound of variable i: 1 / (variables * (open choices - 1)), at most half of 1/C."""
        count = int(self.open[i].sum())
        if count < 2:
            return 0.0
        return min(1.0 / (len(self.variables) * (count - 1)), 0.5 / count)

    def bound(self) -> None:
        """Lift every open choice to its lower bound; the excess is taken from the others."""
        for i, mask in enumerate(self.open):
            low = self.theta_min(i)
            values = np.where(mask, np.maximum(self.theta[i], low), 0.0)
            above = np.where(mask, values - low, 0.0)
            room = 1.0 - low * int(mask.sum())
            if above.sum() > 0:
                self.theta[i] = np.where(mask, low + above * (room / above.sum()), 0.0)
            else:
                self.theta[i] = mask / int(mask.sum())

    def sample(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw one choice index per variable: (variables,).

        With `count` that many at once, the same as so many calls in turn: (count, variables).
        """
        return _draw(self.theta, rng, count)

    def sample_uniform(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw from pi: uniform over the open choices of each variable; `count` as in `sample`."""
        return _draw([o / o.sum() for o in self.open], rng, count)

    def log_ratio(self, indices: np.ndarray) -> float:
        """Return ln P_theta(m) - ln pi(m); variables at -1 (layers not kept) are left out."""
        total = 0.0
        for i, c in enumerate(indices):
            if c >= 0:
                total += math.log(max(self.theta[i][c], 1e-300) * int(self.open[i].sum()))
        return total

    def mode(self) -> np.ndarray:
        """Return the most probable choice of each variable: (variables,)."""
        return np.array([int(t.argmax()) for t in self.theta], np.int64)

    def entropy(self) -> float:
        """Return rho: the sum of the entropies of the variables that are open, in nats."""
        return float(sum(_entropy(t) for t in self.theta))

    def max_entropy(self) -> float:
        """Return rho_max: the sum of the log numbers of open choices, in nats."""
        return float(sum(math.log(int(o.sum())) for o in self.open))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON-able values; floats round-trip bit for bit."""
        return {
            "theta": [t.tolist() for t in self.theta],
            "open": [o.tolist() for o in self.open],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; ValueError when the shapes differ."""
        theta = [np.array(t, np.float64) for t in state["theta"]]
        if [len(t) for t in theta] != [len(v.choices) for v in self.variables]:
            raise ValueError("the state belongs to another search space")
        self.theta, self.open = theta, [np.array(o, bool) for o in state["open"]]


def _draw(theta: Sequence[np.ndarray], rng: np.random.Generator, count: int | None) -> np.ndarray:
    draws = rng.random((1 if count is None else count, len(theta)))
    rows = np.stack([_pick(p, u) for p, u in zip(theta, draws.T, strict=True)], axis=1)
    return rows[0] if count is None else rows


def _pick(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Invert the distribution function at each u: (count,); never a choice of probability 0."""
    # The first choice whose cumulated probability is above u has one itself; rounding alone can put u
    # above them all.
    return np.minimum(p.cumsum().searchsorted(u * p.sum(), side="right"), p.nonzero()[0][-1])


def _entropy(p: np.ndarray) -> float:
    q = p[p > 0]
    return float(-(q * np.log(q)).sum())

"""theta: independent categoricals over the choices of each variable.

Choices that the current phase keeps closed have probability 0 and take no part in entropy, bounds
or updates. A choice that opens gets the mass 1/m (m = open choices), the others share the rest in
their old proportions.

One array holds all variables, (variables, choices): a row that has fewer choices than the longest ends
in choices that are closed for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.search.space import Variable


class ArchitectureDistribution:
    """P_theta(m) = product of p_theta_i(o_i): one row of probabilities per variable.

    Attributes:
        theta: (variables, choices) float64, each row sums to 1; beyond a variable's choices 0.
        open: (variables, choices): which choices are open.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self.variables = tuple(variables)
        counts = np.array([len(v.choices) for v in self.variables])
        self.exists: np.ndarray = np.arange(counts.max()) < counts[:, None]
        self.open: np.ndarray = self.exists.copy()
        self.theta: np.ndarray = self.exists / counts[:, None]

    def set_open(self, masks: Sequence[np.ndarray]) -> None:
        """Open and close choices, one mask per variable; a newly opened one gets the mass 1/m."""
        mask = self._padded(masks).astype(bool)
        count = mask.sum(1, keepdims=True)
        if not count.all():
            raise ValueError(f"no choice of {self.variables[int(count.argmin())].name} is open")
        new = mask & ~self.open
        kept = np.where(mask & self.open, self.theta, 0.0)
        room = 1.0 - new.sum(1, keepdims=True) / count
        total = kept.sum(1, keepdims=True)
        scaled = kept * (room / np.where(total > 0, total, 1.0))
        self.theta = np.where(total > 0, np.where(new, 1.0 / count, scaled), mask / count)
        self.open = mask

    def lower_bounds(self) -> np.ndarray:
        """Lower bounds: 1 / (variables * (open choices - 1)), at most half of 1/C: (variables,)."""
        count = self.open.sum(1)
        several = 1.0 / (len(self.variables) * np.maximum(count - 1, 1))
        return np.where(count < 2, 0.0, np.minimum(several, 0.5 / count))

    def apply_lower_bounds(self) -> None:
        """Lift every open choice to its lower bound; the excess is taken from the others."""
        low, count = self.lower_bounds()[:, None], self.open.sum(1, keepdims=True)
        above = np.where(self.open, np.maximum(self.theta, low) - low, 0.0)
        total = above.sum(1, keepdims=True)
        lifted = low + above * ((1.0 - low * count) / np.where(total > 0, total, 1.0))
        self.theta = np.where(self.open, np.where(total > 0, lifted, 1.0 / count), 0.0)

    def sample(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw one choice index per variable: (variables,).

        With `count` that many at once, the same as so many calls in turn: (count, variables).
        """
        return _draw(self.theta, rng, count)

    def sample_uniform(self, rng: np.random.Generator, count: int | None = None) -> np.ndarray:
        """Draw from pi: uniform over the open choices of each variable; `count` as in `sample`."""
        return _draw(self.open / self.open.sum(1, keepdims=True), rng, count)

    def log_ratio(self, indices: np.ndarray) -> float:
        """Return ln P_theta(m) - ln pi(m); variables at -1 (layers not kept) are left out."""
        kept = np.flatnonzero(np.asarray(indices) >= 0)
        p = np.maximum(self.theta[kept, np.asarray(indices)[kept]], 1e-300)
        return float(np.log(p * self.open[kept].sum(1)).sum())

    def mode(self) -> np.ndarray:
        """Return the most probable choice of each variable: (variables,)."""
        return self.theta.argmax(1)

    def entropy(self) -> float:
        """Return rho: the sum of the entropies of the variables that are open, in nats."""
        p = self.theta[self.theta > 0]
        return float(-(p * np.log(p)).sum())

    def max_entropy(self) -> float:
        """Return rho_max: the sum of the log numbers of open choices, in nats."""
        return float(np.log(self.open.sum(1)).sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON-able values; floats round-trip bit for bit."""
        sizes = [len(v.choices) for v in self.variables]
        rows = zip(self.theta.tolist(), self.open.tolist(), sizes, strict=True)
        cut = [(theta[:size], open_[:size]) for theta, open_, size in rows]
        return {"theta": [t for t, _ in cut], "open": [o for _, o in cut]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; ValueError when the shapes differ."""
        self.theta, self.open = self._padded(state["theta"]), self._padded(state["open"]).astype(bool)

    def _padded(self, rows: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
        if [len(row) for row in rows] != [len(v.choices) for v in self.variables]:
            raise ValueError("the state belongs to another search space")
        out = np.zeros(self.exists.shape)
        out[self.exists] = np.concatenate([np.asarray(row, np.float64) for row in rows])
        return out


def _draw(p: np.ndarray, rng: np.random.Generator, count: int | None) -> np.ndarray:
    """Invert each row's distribution function at uniform numbers; never a choice of probability 0."""
    cumulated, draws = p.cumsum(1), rng.random((1 if count is None else count, len(p)))
    above = (cumulated <= (draws * cumulated[:, -1])[..., None]).sum(2)
    # The first choice whose cumulated probability is above the draw has one itself; rounding alone can
    # put the draw above them all.
    last = p.shape[1] - 1 - (p[:, ::-1] > 0).argmax(1)
    rows = np.minimum(above, last)
    return rows[0] if count is None else rows

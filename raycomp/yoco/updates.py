"""How losses move theta: the printed rule, the ranked rule, and its adaptive form.

With U(m) the one-hot vector of a sample, the natural gradient of ln P_theta(m) is U(m) - theta
(YOCO-BERT, Section 3.3). A sample says nothing about a variable of a layer that it does not keep:
there its contribution is zero.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from raycomp.yoco.distribution import Categoricals


class UpdateRule(Protocol):
    """Moves a distribution by scored samples."""

    def update(
        self,
        dist: Categoricals,
        indices: np.ndarray,
        losses: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Update in place.

        Args:
            dist: the distribution.
            indices: (samples, variables) choice indices, -1 where a layer is not kept.
            losses: (samples,), smaller is better; one that is not finite counts as the worst.
            weights: (samples,), 1 for a sample of theta; less or 0 for one of pi.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's state as JSON-able values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


def natural_gradient(dist: Categoricals, indices: np.ndarray, u: np.ndarray) -> list[np.ndarray]:
    """Return the mean over samples of u_i (U(m_i) - theta), one vector per variable.  # Eq. 5."""
    grads = [np.zeros_like(t) for t in dist.theta]
    for row, weight in zip(indices, u, strict=True):
        for v, c in enumerate(row):
            if c >= 0 and dist.open[v].sum() > 1:
                grads[v] -= weight * dist.theta[v]
                grads[v][c] += weight
    return [g / len(u) for g in grads]


def utilities(losses: np.ndarray) -> np.ndarray:
    """Return +1/mu for the best quarter, -1/mu for the worst, 0 between; ties share (ASNG).

    mu = ceil(samples / 4); all equal gives zeros.
    """
    count = len(losses)
    ranked = np.where(np.isfinite(losses), losses, np.inf)
    mu = math.ceil(count / 4)
    table = np.zeros(count)
    table[:mu] += 1.0 / mu
    table[count - mu :] -= 1.0 / mu
    order = np.argsort(ranked, kind="stable")
    out = np.empty(count)
    out[order] = table
    for value in np.unique(ranked):
        same = ranked == value
        out[same] = out[same].mean()
    return out


class Raw:
    """Eq. 5 as printed: the loss itself is the weight; theta -= rate * gradient."""

    def __init__(self, rate: float = 0.05) -> None:
        self.rate = rate

    def update(
        self, dist: Categoricals, indices: np.ndarray, losses: np.ndarray, weights: np.ndarray
    ) -> None:
        """Update in place; see UpdateRule."""
        finite = losses[np.isfinite(losses)]
        if not len(finite):
            return
        used = np.where(np.isfinite(losses), losses, finite.max()) * weights
        for v, grad in enumerate(natural_gradient(dist, indices, used)):
            # Loss is minimised, so theta moves against Eq. 5's gradient.
            dist.theta[v] = np.where(dist.open[v], dist.theta[v] - self.rate * grad, 0.0)
            dist.theta[v] = np.maximum(dist.theta[v], 0.0)
            dist.theta[v] /= dist.theta[v].sum()
        dist.bound()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the rule has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class ASNG:
    """Adaptive stochastic natural gradient (Akimoto et al. 2019).

    With `adapt=False` this is the ranked rule of the released code (SNG): a constant step of length
    `delta` in the Fisher norm.
    """

    def __init__(
        self,
        dist: Categoricals,
        *,
        adapt: bool = True,
        delta: float = 1.0,
        alpha: float = 1.5,
        delta_max: float = math.inf,
    ) -> None:
        self.adapt = adapt
        self.delta_init = delta
        self.alpha = alpha
        self.delta_max = delta_max
        self.big_delta = 1.0
        self.gamma = 0.0
        self.s = [np.zeros(max(0, len(t) - 1)) for t in dist.theta]

    def update(
        self, dist: Categoricals, indices: np.ndarray, losses: np.ndarray, weights: np.ndarray
    ) -> None:
        """Update in place; see UpdateRule."""
        u = utilities(losses) * weights
        if not u.any():
            return
        # Utilities are the weight of smaller losses, so theta moves along the gradient.
        grads = natural_gradient(dist, indices, u)
        steps = [fisher_root(t, g, o) for t, g, o in zip(dist.theta, grads, dist.open, strict=True)]
        norm = math.sqrt(sum(float((s**2).sum()) for s in steps))
        if norm <= 0:
            return
        delta = self.delta_init / self.big_delta
        for v, grad in enumerate(grads):
            dist.theta[v] = dist.theta[v] + delta * grad / norm
            np.clip(dist.theta[v], 0.0, 1.0, out=dist.theta[v])
            dist.theta[v] /= dist.theta[v].sum()
        if self.adapt:
            self._adapt(dist, steps, norm, delta)
        dist.bound()

    def _adapt(self, dist: Categoricals, steps: list[np.ndarray], norm: float, delta: float) -> None:
        n = sum(int(o.sum()) - 1 for o in dist.open)
        beta = min(1.0, delta / math.sqrt(max(n, 1)))
        rate = math.sqrt(beta * (2 - beta))
        self.s = [(1 - beta) * a + rate * b / norm for a, b in zip(self.s, steps, strict=True)]
        self.gamma = (1 - beta) ** 2 * self.gamma + beta * (2 - beta)
        length = sum(float((s**2).sum()) for s in self.s)
        grown = self.big_delta * math.exp(beta * (self.gamma - length / self.alpha))
        self.big_delta = min(self.delta_max, grown)

    def state_dict(self) -> dict[str, Any]:
        """Return the step size, its evidence and its path."""
        return {
            "big_delta": self.big_delta,
            "gamma": self.gamma,
            "s": [s.tolist() for s in self.s],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.big_delta, self.gamma = state["big_delta"], state["gamma"]
        self.s = [np.array(s, np.float64) for s in state["s"]]


def fisher_root(theta: np.ndarray, grad: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the gradient of one variable in coordinates where the Fisher norm is Euclidean.

    s_j = g_j / sqrt(th_j) + sqrt(th_j) sum_{l<K} g_l / (th_K + sqrt(th_K)) for the open choices
    j < K; the vector has one entry less than theta, closed choices are 0.
    """
    out = np.zeros(max(0, len(theta) - 1))
    where = np.flatnonzero(mask)
    if len(where) < 2:
        return out
    first, last = where[:-1], where[-1]
    root = np.sqrt(np.maximum(theta[first], 1e-300))
    final = max(float(theta[last]), 1e-300)
    # The path s keeps one slot per choice, so that it survives the opening of further choices: the
    # last one, the largest, is open from the first phase on.
    out[first] = grad[first] / root + root * grad[first].sum() / (final + math.sqrt(final))
    return out


def make_rule(name: str, dist: Categoricals) -> UpdateRule:
    """Return the update rule "raw", "sng" or "asng" for super-network training.

    ASNG begins with a step of 0.1, not 1: on pure noise it then keeps 96% of the entropy in place of
    71%. It is slower at first (82% of a known optimum after 100 noisy updates, against 91%) and level
    by 1,000 (benchmarks/update_rules.py).
    """
    if name == "raw":
        return Raw()
    adapt = name == "asng"
    return ASNG(dist, adapt=adapt, delta=0.1 if adapt else 1.0)

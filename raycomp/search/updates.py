"""Rules that update theta from losses: the printed one, the ranked one, and its adaptive form.

With U(m) the one-hot vector of a sample, the natural gradient of ln P_theta(m) is U(m) - theta
(YOCO-BERT, Section 3.3). A sample says nothing about a variable of a layer that it does not run: there
its contribution is 0.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from raycomp.search.distribution import ArchitectureDistribution


class UpdateRule(Protocol):
    """Updates a distribution from scored samples."""

    def update(
        self,
        dist: ArchitectureDistribution,
        indices: np.ndarray,
        losses: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Update in place.

        Args:
            dist: The distribution.
            indices: (samples, variables) choice indices, -1 where a layer does not run.
            losses: (samples,); smaller is better, and one that is not finite counts as the worst.
            weights: (samples,); 1 for a sample of theta, less or 0 for one of pi.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the rule's state as JSON-able values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        ...


def natural_gradient(
    dist: ArchitectureDistribution, indices: np.ndarray, utilities: np.ndarray
) -> np.ndarray:
    """Return the mean over samples of u_i (U(m_i) - theta), (variables, choices) (YOCO-BERT, Eq. 5).

    Args:
        dist: The distribution.
        indices: (samples, variables) choice indices, -1 where a layer does not run.
        utilities: (samples,), u_i.
    """
    has_choice = dist.open.sum(1) > 1
    gradient = np.zeros_like(dist.theta)
    for row, utility in zip(indices, utilities, strict=True):
        active = np.flatnonzero((row >= 0) & has_choice)
        gradient[active] -= utility * dist.theta[active]  # Eq. 5, - theta
        gradient[active, row[active]] += utility  # Eq. 5, U(m_i)
    return gradient / len(utilities)


def ranked_utilities(losses: np.ndarray) -> np.ndarray:
    """Return +1/mu for the best quarter, -1/mu for the worst, 0 between: (samples,) (ASNG).

    mu = ceil(samples / 4). Samples of equal loss share the mean of their utilities: if all
    losses are equal, all utilities are 0.

    Args:
        losses: (samples,); one that is not finite ranks last.
    """
    count = len(losses)
    mu = math.ceil(count / 4)
    by_rank = np.zeros(count)
    by_rank[:mu] += 1.0 / mu
    by_rank[count - mu :] -= 1.0 / mu

    comparable = np.where(np.isfinite(losses), losses, np.inf)
    utilities = np.empty(count)
    utilities[np.argsort(comparable, kind="stable")] = by_rank
    for value in np.unique(comparable):
        tied = comparable == value
        utilities[tied] = utilities[tied].mean()
    return utilities


class PrintedRule:
    """Eq. 5 as printed: the loss is the weight of a sample, and theta -= rate * gradient."""

    def __init__(self, rate: float = 0.05) -> None:
        self.rate = rate

    def update(
        self,
        dist: ArchitectureDistribution,
        indices: np.ndarray,
        losses: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Update in place; see `UpdateRule.update`."""
        finite = losses[np.isfinite(losses)]
        if not len(finite):
            return

        utilities = np.where(np.isfinite(losses), losses, finite.max()) * weights
        # Loss is minimised, so theta moves against Eq. 5's gradient.
        moved = dist.theta - self.rate * natural_gradient(dist, indices, utilities)  # Eq. 5
        dist.theta = np.where(dist.open, np.maximum(moved, 0.0), 0.0)
        dist.theta /= dist.theta.sum(1, keepdims=True)
        dist.apply_lower_bounds()

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the rule is stateless."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing: the rule is stateless."""


class ASNG:
    """Adaptive stochastic natural gradient (ASNG, Akimoto et al. 2019, https://arxiv.org/abs/1905.08537).

    theta moves by a step of length delta in the Fisher norm. The step grows while successive steps point
    in the same direction (signal) and shrinks while they do not (noise). With `adapt=False` the length is
    constant: the ranked rule of the released code (SNG).

    Symbols of the paper's Algorithm 1:

        theta      dist.theta      probabilities, updated in place
        u          utilities       ranks of the losses, see `ranked_utilities`
        G          gradient        natural gradient, (variables, choices)
        F^(1/2) G  root            gradient in coordinates where the Fisher norm is Euclidean
        delta      delta           length of this step, delta_init / Delta
        Delta      self.big_delta  adapted divisor of the step length
        n          n               free parameters: open choices minus variables
        beta       beta            rate of the averages, delta / sqrt(n)
        s          self.s          moving average of steps of length 1, (variables, choices)
        gamma      self.gamma      expected |s|^2 where the steps are noise only
        alpha      self.alpha      threshold of |s|^2 / gamma above which the step grows

    Example: the loss is lowest at choice 2 of the only variable.

        >>> import numpy as np
        >>> from raycomp.search.distribution import ArchitectureDistribution
        >>> from raycomp.search.space import Variable
        >>> dist = ArchitectureDistribution([Variable("heads.0", (4, 8, 12), 0)])
        >>> rule, rng = ASNG(dist, delta=0.1), np.random.default_rng(0)
        >>> for _ in range(200):
        ...     samples = dist.sample(rng, 4)
        ...     rule.update(dist, samples, losses=np.abs(samples[:, 0] - 2.0), weights=np.ones(4))
        >>> int(dist.mode()[0])
        2
    """

    def __init__(
        self,
        dist: ArchitectureDistribution,
        *,
        adapt: bool = True,
        delta: float = 1.0,
        alpha: float = 1.5,
        delta_max: float = math.inf,
    ) -> None:
        """Start at the step length `delta`.

        Args:
            dist: Distribution that the rule will update.
            adapt: Whether the step length adapts.
            delta: Length of the first step, delta_init.
            alpha: Threshold of the adaptation.
            delta_max: Upper bound of Delta.
        """
        self.adapt = adapt
        self.delta_init = delta
        self.alpha = alpha
        self.delta_max = delta_max
        self.big_delta = 1.0
        self.gamma = 0.0
        self.s = np.zeros_like(dist.theta)
        self._sizes = [max(0, len(v.choices) - 1) for v in dist.variables]

    def update(
        self,
        dist: ArchitectureDistribution,
        indices: np.ndarray,
        losses: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        """Update in place; see `UpdateRule.update`."""
        utilities = ranked_utilities(losses) * weights  # ASNG Alg. 1: utilities
        if not utilities.any():
            # The losses are equal, or all samples are exploration samples of weight 0.
            return
        gradient = natural_gradient(dist, indices, utilities)  # ASNG Alg. 1: G
        root = fisher_root(dist.theta, gradient, dist.open)
        norm = math.sqrt(float((root**2).sum()))
        if norm <= 0:
            # All open variables have one choice.
            return

        # Smaller losses have positive utilities, so theta moves along the gradient.
        delta = self.delta_init / self.big_delta  # ASNG Alg. 1: delta
        dist.theta = np.clip(dist.theta + delta * gradient / norm, 0.0, 1.0)  # ASNG Alg. 1: theta
        dist.theta /= dist.theta.sum(1, keepdims=True)
        if self.adapt:
            self._adapt_step_length(dist, root / norm, delta)
        dist.apply_lower_bounds()

    def _adapt_step_length(
        self, dist: ArchitectureDistribution, direction: np.ndarray, delta: float
    ) -> None:
        """Update Delta from the direction of this step, (variables, choices), of Fisher norm 1."""
        n = int(dist.open.sum()) - len(dist.open)
        beta = min(1.0, delta / math.sqrt(max(n, 1)))  # ASNG Alg. 1: beta
        self.s = (1 - beta) * self.s + math.sqrt(beta * (2 - beta)) * direction  # ASNG Alg. 1: s
        self.gamma = (1 - beta) ** 2 * self.gamma + beta * (2 - beta)  # ASNG Alg. 1: gamma

        length = float((self.s**2).sum())
        adapted = self.big_delta * math.exp(beta * (self.gamma - length / self.alpha))
        self.big_delta = min(self.delta_max, adapted)  # ASNG Alg. 1: Delta

    def state_dict(self) -> dict[str, Any]:
        """Return Delta, gamma and s."""
        rows = zip(self.s.tolist(), self._sizes, strict=True)
        return {
            "big_delta": self.big_delta,
            "gamma": self.gamma,
            "s": [row[:size] for row, size in rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.big_delta = state["big_delta"]
        self.gamma = state["gamma"]
        self.s = np.zeros_like(self.s)
        for row, size, saved in zip(self.s, self._sizes, state["s"], strict=True):
            row[:size] = saved


def fisher_root(theta: np.ndarray, gradient: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the gradient in coordinates where the Fisher norm is Euclidean: (variables, choices).

    Of each variable s_j = g_j / sqrt(th_j) + sqrt(th_j) sum_{l<K} g_l / (th_K + sqrt(th_K)) for the open
    choices j < K, where K is the last open one; all else is 0.

    Args:
        theta: (variables, choices) probabilities.
        gradient: (variables, choices) natural gradient.
        mask: (variables, choices), True where a choice is open.
    """
    rows = np.arange(len(theta))
    # The average s has one slot per choice, and survives when further choices open: the last choice, the
    # largest, is open from the first phase on.
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    is_free = mask.copy()
    is_free[rows, last] = False

    root = np.sqrt(np.maximum(theta, 1e-300))
    theta_last = np.maximum(theta[rows, last], 1e-300)
    others = np.where(is_free, gradient, 0.0).sum(1) / (theta_last + np.sqrt(theta_last))
    return np.where(is_free, gradient / root + root * others[:, None], 0.0)

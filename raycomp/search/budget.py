"""A budget of the deployment search: a limit, and the reward of an architecture under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostFunction
from raycomp.search.reward import RewardForm, constrained_reward
from raycomp.search.space import SearchSpace


@dataclass(frozen=True)
class SearchBudget:
    """A limit on a cost, and the price of exceeding it.

    Attributes:
        cost: Cost T(m) of an architecture, in the unit of `limit`.
        limit: Largest cost that meets the budget, Omega.
        largest: Cost T(M) of the full network.
        alpha: Exponent of Eq. 7.
        form: Form of Eq. 7, "corrected" or "printed".
    """

    cost: CostFunction
    limit: float
    largest: float
    alpha: float = 2.0
    form: RewardForm = "corrected"

    def is_met_by(self, arch: Architecture) -> bool:
        """Return whether an architecture is within the limit."""
        return self.cost(arch) <= self.limit

    def reward(self, arch: Architecture, value: float) -> float:
        """Return the reward of an architecture with this metric value (Eq. 7)."""
        return constrained_reward(value, self.cost(arch), self.limit, self.largest, self.alpha, self.form)


def best_index(
    archs: Sequence[Architecture],
    values: Sequence[float],
    losses: Sequence[float],
    budget: SearchBudget,
) -> int | None:
    """Return the index of the best architecture that meets a budget; None if none does.

    The larger value wins, then the smaller loss, then the smaller cost.

    Args:
        archs: Scored architectures.
        values: Metric of each on the selection split.
        losses: Label loss of each on the selection split.
        budget: The budget.
    """
    # A budget is strict: an architecture over the limit is never deployed, however good.
    feasible = [i for i, arch in enumerate(archs) if budget.is_met_by(arch)]
    if not feasible:
        return None
    return max(feasible, key=lambda i: (values[i], -losses[i], -budget.cost(archs[i])))


def cheapest_architecture(space: SearchSpace, cost: CostFunction) -> tuple[Architecture, float]:
    """Return the cheapest architecture and its cost.

    Every cost grows with every dimension except the word table, of which each one is tried.
    """
    smallest = space.smallest()
    candidates = [replace(smallest, table=table) for table in space.tables]
    cheapest = min(candidates, key=cost)
    return cheapest, cost(cheapest)

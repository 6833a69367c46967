"""Groups of budgets with nearly the same limit, which one search serves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raycomp.config.budget import BudgetSettings

GROUP_WIDTH = 0.025
"""Largest relative difference between the limits of a group. From a tenth of the network to all of it
there are at most 94 groups of one kind, however many budgets a job has."""

GROWTH_EXPONENT = 0.45
"""All evaluations grow as the number of groups to this power: slower than its square root."""


@dataclass(frozen=True)
class BudgetGroup:
    """Budgets of one kind whose limits differ little, in ascending order of their limits.

    The networks of a group are fitted to its lowest limit, so every member can deploy them.

    Attributes:
        members: The budgets.
    """

    members: tuple[BudgetSettings, ...]

    @property
    def name(self) -> str:
        """Name of the budget with the lowest limit."""
        return self.members[0].name


def group_budgets(
    budgets: Sequence[BudgetSettings],
    limit: Callable[[BudgetSettings], float],
    least: Callable[[str], float],
    full: Callable[[str], float],
    key: Callable[[BudgetSettings], str] = lambda budget: budget.kind,
) -> list[BudgetGroup]:
    """Return the groups, in the order in which the job names their first members.

    Args:
        budgets: Budgets of the job.
        limit: From a budget to its limit.
        least: From a kind of cost to the cost of the smallest network.
        full: From a kind of cost to the cost of the largest network.
        key: From a budget to its kind of cost.
    """
    groups: list[list[BudgetSettings]] = []
    for kind in dict.fromkeys(key(budget) for budget in budgets):
        # A limit above the largest network allows what a limit at the largest network allows.
        limits = {b.name: min(limit(b), full(kind)) for b in budgets if key(b) == kind}
        members = sorted((b for b in budgets if key(b) == kind), key=lambda b: limits[b.name])
        start = 0.0
        for budget in members:
            own = limits[budget.name]
            # A budget that no network meets would give its group a limit that no network meets.
            is_near = own <= start * (1 + GROUP_WIDTH) and (start >= least(kind) or own < least(kind))
            if start and is_near:
                groups[-1].append(budget)
            else:
                groups.append([budget])
                start = own

    order = {budget.name: i for i, budget in enumerate(budgets)}
    ordered = sorted(groups, key=lambda group: min(order[budget.name] for budget in group))
    return [BudgetGroup(tuple(group)) for group in ordered]


def evaluation_budget(
    evaluations: int, shared_fraction: float | None, num_groups: int, num_architectures: int
) -> tuple[int, int]:
    """Return how many evaluations one search may ask for, and how many of them all searches share.

    Without a shared fraction, all G groups together ask for at most G^0.45 times the evaluations of one:
    1.4 times for 2 groups, 1.9 times for 4, 7.5 times for 90.

    Args:
        evaluations: `search.evaluations`.
        shared_fraction: `search.shared_fraction`.
        num_groups: Number of groups of budgets.
        num_architectures: Number of architectures in the search space.
    """
    total = min(evaluations, num_architectures)
    if shared_fraction is not None:
        return total, min(total, math.ceil(total * shared_fraction))
    if num_groups < 2:
        return total, 0

    together = total * num_groups**GROWTH_EXPONENT
    # Each search has at least one network of its own: the initial set may lack networks near its limit.
    own = max(1, math.floor((together - total) / (num_groups - 1)))
    return total, total - min(own, total)

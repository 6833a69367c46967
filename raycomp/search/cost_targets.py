"""Architectures of a wanted cost: near the budgets of a job, or spread evenly over all costs.

Architectures that are drawn uniformly per variable have costs near the middle, so small budgets get
hardly any of them. A training can therefore draw some of its samples for a cost that is drawn first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.config.budget import BUDGET_KINDS
from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostFunction, CostModel
from raycomp.search.moves import fit_to_limit
from raycomp.search.space import SearchSpace

BAND = 0.15
"""Width of the band below a budget's limit, as a share of the limit."""


@dataclass(frozen=True)
class CostTargets:
    """Draws the architectures of some steps for a cost instead of uniformly per variable.

    Attributes:
        budgets: Cost function and limit of each budget.
        size: Cost function of the even spread.
        budget_share: Part of the steps with a cost in the band below the limit of a random budget.
        cost_share: Part of the steps with a cost that is uniform from the smallest to the largest one.
    """

    budgets: Sequence[tuple[CostFunction, float]]
    size: CostFunction
    budget_share: float
    cost_share: float

    def draw(self, space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture] | None:
        """Draw the architectures of a step; None for a step without a target.

        Args:
            space: The space, or its part that is open.
            count: Number of architectures. All of them have the same target.
            rng: Generator of all draws.
        """
        chance = rng.random()
        if chance < self.budget_share:
            cost, limit = self.budgets[int(rng.integers(len(self.budgets)))]
            target = limit * rng.uniform(1 - BAND, 1)
        elif chance < self.budget_share + self.cost_share:
            cost = self.size
            target = rng.uniform(cost(space.smallest()), cost(space.largest()))
        else:
            return None
        return [self._draw_one(space, cost, target, rng) for _ in range(count)]

    def _draw_one(
        self, space: SearchSpace, cost: CostFunction, target: float, rng: np.random.Generator
    ) -> Architecture:
        fitted = fit_to_limit(space.sample_uniform(rng), space, cost, target, rng)
        # In an early phase the smallest open architecture can exceed the target.
        return fitted if fitted is not None else space.smallest()


def job_targets(job: Job, space: SearchSpace, costs: CostModel) -> CostTargets | None:
    """Return the targets that a job asks for; None if it asks for none.

    Args:
        job: The job.
        space: Its whole search space.
        costs: Costs of its network.
    """
    if not job.train.budget_share and not job.train.cost_share:
        return None

    def cost_of(kind: str) -> CostFunction:
        return lambda arch: float(costs.cost(kind, arch))

    # Preflight refuses other budgets with `train.budget_share`.
    budgets = [budget for budget in job.budget if budget.kind in BUDGET_KINDS]
    full = {budget.kind: float(costs.cost(budget.kind, space.largest())) for budget in budgets}
    return CostTargets(
        budgets=[(cost_of(b.kind), b.resolve(full[b.kind])) for b in budgets],
        size=cost_of("encoder_params"),
        budget_share=job.train.budget_share,
        cost_share=job.train.cost_share,
    )

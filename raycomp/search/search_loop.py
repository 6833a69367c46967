"""One trial of the deployment search: which architectures to score next, and which is the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import best_index, cheapest_architecture
from raycomp.search.initial_set import shared_initial_set
from raycomp.search.searchers import make_searcher
from raycomp.search.setup import SearchSetup
from raycomp.training.seeding import trial_seed

# All budgets together need at most 1.3 times the evaluations of one.
MAX_SHARED_OVERHEAD = 0.3


@dataclass(frozen=True)
class SearchTrial:
    """Name of one trial of the search.

    Attributes:
        budget: Name of the budget.
        searcher: Name of the searcher.
        seed: Seed of the trial, one of the job's `search.seeds`.
    """

    budget: str
    searcher: str
    seed: int


class SearchLoop:
    """Proposes the architectures of one trial, and records their scores.

    The loop has three parts:

    1. The initial set, which all budgets of a job share. Most evaluations are therefore shared too.
    2. Batches of the searcher, until `search.evaluations` different architectures have a score, or the
       searcher proposes nothing new.
    3. The smallest network of the space, if none of the others meets the budget.

    Example:
        >>> loop = SearchLoop(setup, theta, SearchTrial("half", "sng", 0))  # doctest: +SKIP
        >>> while archs := loop.ask():
        ...     values, losses = evaluate(archs)
        ...     loop.tell(archs, values, losses)  # doctest: +SKIP
        >>> arch, value, loss = loop.best()  # doctest: +SKIP

    Attributes:
        archs: All architectures that have a score, in the order in which they were told.
    """

    def __init__(self, setup: SearchSetup, theta: dict[str, Any], trial: SearchTrial) -> None:
        """Prepare a trial.

        Args:
            setup: Job with the shape of its network.
            theta: State of the trained sampler.
            trial: Trial of the job. Its budget must be feasible: see `infeasible_reason`.
        """
        job = setup.job
        space = setup.space
        seed = trial_seed(job.run.seed, trial.seed)
        total, shared = evaluation_budget(job, space.num_architectures())

        self.archs: list[Architecture] = []
        self._values: list[float] = []
        self._losses: list[float] = []
        self._evaluated: set[Architecture] = set()

        self._budget = setup.budget(budget_settings(job, trial.budget))
        self._searcher = make_searcher(trial.searcher, space, theta, self._budget, seed)
        self._smallest, _ = cheapest_architecture(space, self._budget.cost)
        self._total = total
        self._batch_size = job.search.batch
        self._is_exhausted = False

        self._initial: list[Architecture] = []
        if shared:
            budgets = [setup.budget(settings) for settings in job.budget]
            self._initial = shared_initial_set(space, theta, budgets, shared, seed)

    @property
    def num_evaluations(self) -> int:
        """Number of different architectures that were told."""
        return len(self._evaluated)

    def ask(self) -> list[Architecture]:
        """Return the architectures to score next; none when the trial has ended."""
        if self._initial:
            batch, self._initial = self._initial, []
            return batch

        left = self._total - self.num_evaluations
        if left > 0 and not self._is_exhausted:
            batch = self._searcher.ask(min(self._batch_size, left))
            if batch:
                return batch
            self._is_exhausted = True

        # The smallest network meets every feasible budget, so it is the last resort.
        return [] if self._best_index() is not None else [self._smallest]

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Record scores.

        Args:
            archs: Architectures, as `ask` returned them.
            values: Their scores on the selection split; larger values are better.
            losses: Their losses on the selection split.
        """
        num_before = self.num_evaluations
        self._searcher.tell(archs, values, losses)

        self.archs.extend(archs)
        self._values.extend(values)
        self._losses.extend(losses)
        self._evaluated.update(archs)

        # The searcher has seen the whole space, or all that it can reach.
        if self.num_evaluations == num_before:
            self._is_exhausted = True

    def best(self) -> tuple[Architecture, float, float]:
        """Return the best architecture that meets the budget, its score and its loss.

        Raises:
            ValueError: The trial has not ended: none of the architectures meets the budget.
        """
        index = self._best_index()
        if index is None:
            raise ValueError("no architecture meets the budget: call best() when ask() returns nothing")
        return self.archs[index], self._values[index], self._losses[index]

    def _best_index(self) -> int | None:
        return best_index(self.archs, self._values, self._losses, self._budget)


def budget_settings(job: Job, name: str) -> BudgetSettings:
    """Return the settings of a budget by its name."""
    return next(settings for settings in job.budget if settings.name == name)


def evaluation_budget(job: Job, num_architectures: int) -> tuple[int, int]:
    """Return how many evaluations a trial may ask for, and how many of them all budgets share.

    If `search.shared_fraction` is absent, the shared part is as large as necessary for all budgets
    together to need at most 1.3 times the evaluations of one.

    Args:
        job: The job.
        num_architectures: Number of architectures in the search space.
    """
    total = min(job.search.evaluations, num_architectures)

    if job.search.shared_fraction is not None:
        return total, min(total, math.ceil(total * job.search.shared_fraction))

    num_others = len(job.budget) - 1
    if num_others == 0:
        return total, 0
    return total, total - math.floor(MAX_SHARED_OVERHEAD * total / num_others)


def infeasible_reason(name: str, kind: str, limit: float, least: float) -> str:
    """Return a message that names the nearest feasible limit; empty if the budget is feasible.

    Args:
        name: Name of the budget.
        kind: Kind of its cost, such as "params".
        limit: Its limit, in the unit of the cost.
        least: Cost of the smallest network of the space.
    """
    if least <= limit:
        return ""
    return (
        f"Budget {name}: {kind} <= {limit:,.0f} cannot be met, because the smallest network of the space "
        f"has {least:,.0f}. Nearest feasible limit: {least:,.0f}. To go lower, add a smaller value to "
        "space.ffn, space.heads or space.depth."
    )

"""One trial of the deployment search: which architectures to score next, and which are the best."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycomp.config.budget import DEVICE_KINDS, SEVERAL, BudgetSettings
from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget, cheapest_architecture
from raycomp.search.budget_groups import BudgetGroup, evaluation_budget, group_budgets
from raycomp.search.choice import rank_networks
from raycomp.search.distribution import load_distribution
from raycomp.search.initial_set import shared_initial_set
from raycomp.search.moves import fit_to_limit
from raycomp.search.searchers import make_searcher
from raycomp.search.setup import SearchSetup
from raycomp.search.surrogate import Surrogate
from raycomp.training.seeding import searcher_seed, trial_seed

NUM_FITTED = 50
"""Random networks of which the closest to a limit is scored, where no other one is close."""


@dataclass(frozen=True)
class SearchTrial:
    """Name of one trial of the search.

    Attributes:
        budget: Name of the group of budgets, which is that of its first member.
        searcher: Name of the searcher.
        seed: Seed of the trial, one of the job's `search.seeds`.
    """

    budget: str
    searcher: str
    seed: int


class SearchLoop:
    """Proposes the architectures of one trial, and records their scores.

    The loop has three parts:

    1. The initial set, which all trials of a seed share. Most evaluations are therefore shared too.
    2. Batches of the searcher, fitted to the lowest limit of the group, until `search.evaluations`
       different architectures have a score, or the searcher proposes nothing new.
    3. For each budget whose limit no network uses by `search.min_use`, the network that uses most of it
       among `NUM_FITTED` random ones; and the smallest network of the space, if no other one is feasible.

    Example:
        >>> loop = SearchLoop(setup, theta, SearchTrial("half", "rated", 0))  # doctest: +SKIP
        >>> while archs := loop.ask():
        ...     values, losses = evaluate(archs)
        ...     loop.tell(archs, values, losses)  # doctest: +SKIP
        >>> arch, value, loss = loop.best("half")  # doctest: +SKIP

    Attributes:
        archs: All different architectures that have a score, in the order in which they were told.
        members: Budgets of the group that the space can meet, in ascending order of their limits.
    """

    def __init__(self, setup: SearchSetup, theta: dict[str, Any], trial: SearchTrial) -> None:
        """Prepare a trial.

        Args:
            setup: Job with the shape of its network.
            theta: State of the trained sampler.
            trial: Trial of the job.

        Raises:
            ValueError: No budget of the group is feasible: see `infeasible_reason`.
        """
        job = setup.job
        space = setup.space
        seed = trial_seed(job.run.seed, trial.seed)
        groups = search_groups(setup)

        self.archs: list[Architecture] = []
        self._values: list[float] = []
        self._losses: list[float] = []
        self._evaluated: set[Architecture] = set()

        group = next(group for group in groups if group.name == trial.budget)
        self.members = [b for b in group.members if not infeasible_reason(setup, b)]
        if not self.members:
            raise ValueError(f"no network of the space meets {trial.budget}")

        self._setup = setup
        self._theta = theta
        self._seed = seed
        self._is_filled = False
        self._budget = setup.budget(self.members[0])
        # The initial set and the searcher must not draw the same numbers.
        self._searcher = make_searcher(trial.searcher, space, theta, self._budget, searcher_seed(seed))
        self._smallest, _ = cheapest_architecture(space, self._budget.cost)
        self._total, shared = evaluation_budget(
            job.search.evaluations, job.search.shared_fraction, len(groups), space.num_architectures()
        )
        self._batch_size = job.search.batch
        self._is_exhausted = False

        self._initial: list[Architecture] = []
        if shared:
            leaders = [setup.budget(group.members[0]) for group in groups]
            self._initial = shared_initial_set(space, theta, leaders, shared, seed)

    def _fill(self) -> list[Architecture]:
        """Return one network for each budget whose limit is not used up, as far as one exists."""
        min_use = self._setup.job.search.min_use
        batch: list[Architecture] = []
        for settings in self.members:
            budget = self._setup.budget(settings)
            least_cost = min_use * min(budget.limit, budget.largest)
            scored = [*self.archs, *batch]
            if any(least_cost <= budget.cost(arch) <= budget.limit for arch in scored):
                continue

            most = max((budget.cost(a) for a in scored if budget.is_met_by(a)), default=0.0)
            fitted = _fit_closely(self._setup, budget, self._seed)
            if budget.cost(fitted) > most:
                batch.append(fitted)
        return batch

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

        if not self._is_filled:
            self._is_filled = True
            if batch := self._fill():
                return batch

        # The smallest network meets every feasible budget, so it is the last resort.
        is_met = any(self._budget.is_met_by(arch) for arch in self.archs)
        return [] if is_met else [self._smallest]

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

        # A searcher repeats an architecture where few are left. It counts once in the model of losses.
        for arch, value, loss in zip(archs, values, losses, strict=True):
            if arch not in self._evaluated:
                self._evaluated.add(arch)
                self.archs.append(arch)
                self._values.append(value)
                self._losses.append(loss)

        # The searcher has seen the whole space, or all that it can reach.
        if self.num_evaluations == num_before:
            self._is_exhausted = True

    def best(self, name: str) -> tuple[Architecture, float, float]:
        """Return the best architecture that meets a budget, its score and its loss.

        Args:
            name: Name of a member of the group.

        Raises:
            ValueError: The trial has not ended: none of the architectures meets the budget.
        """
        ranked = self.ranked(name)
        if not ranked:
            raise ValueError("no architecture meets the budget: call best() when ask() returns nothing")
        return ranked[0]

    def ranked(self, name: str) -> list[tuple[Architecture, float, float]]:
        """Return the architectures that meet a budget, their scores and losses, best first.

        See `rank_networks` for the order.

        Args:
            name: Name of a member of the group.
        """
        search = self._setup.job.search
        budget = self._setup.budget(budget_settings(self._setup.job, name))

        surrogate: Surrogate | None = None
        if search.smoothing:
            theta, joint = load_distribution(self._setup.space, self._theta)
            surrogate = Surrogate(self._setup.space, budget, theta, joint)
            surrogate.fit(self.archs, self._losses)
        indices = rank_networks(
            self.archs, self._values, self._losses, budget, surrogate, search.min_use, search.smoothing,
            search.choose_by,
        )  # fmt: skip
        return [(self.archs[i], self._values[i], self._losses[i]) for i in indices]


def _fit_closely(setup: SearchSetup, budget: SearchBudget, seed: int) -> Architecture:
    """Return the architecture that uses most of a feasible limit, of `NUM_FITTED` random ones."""
    rng = np.random.default_rng(seed)
    best, _ = cheapest_architecture(setup.space, budget.cost)
    for _ in range(NUM_FITTED):
        arch = fit_to_limit(setup.space.sample_uniform(rng), setup.space, budget.cost, budget.limit, rng)
        if arch is not None and budget.cost(arch) > budget.cost(best):
            best = arch
    return best


def budget_settings(job: Job, name: str) -> BudgetSettings:
    """Return the settings of a budget by its name."""
    return next(settings for settings in job.budget if settings.name == name)


def search_groups(setup: SearchSetup) -> list[BudgetGroup]:
    """Return the groups of a job's budgets; each group is searched together."""
    space, costs = setup.space, setup.costs

    @functools.cache
    def least(kind: str) -> float:
        return cheapest_architecture(space, lambda arch: float(costs.cost(kind, arch)))[1]

    return group_budgets(
        setup.job.budget,
        setup.limit,
        least,
        lambda kind: float(costs.cost(kind, space.largest())),
        setup.cost_key,
    )


def infeasible_reason(setup: SearchSetup, budget: BudgetSettings) -> str:
    """Return a message that names the nearest feasible limit; empty if the budget is feasible.

    Args:
        setup: Job with the shape of its network.
        budget: Budget of the job.
    """
    costs = setup.budget_costs
    reasons = []
    for kind, limit in costs.limits(budget).items():
        of_kind = functools.partial(costs.cost_of_kind, budget, kind)
        _, least = cheapest_architecture(setup.space, of_kind)
        if least > limit:
            nearest = format_cost(kind, least, round_up=True)
            reasons.append(
                f"Budget {budget.name}: {kind} <= {format_cost(kind, limit)} cannot be met, because the "
                f"smallest network of the space has {nearest}. Nearest feasible limit: {nearest}. To go "
                "lower, add a smaller value to space.ffn, space.heads or space.depth."
            )
    if reasons or budget.kind != SEVERAL:
        return " ".join(reasons)

    # Each limit can be met by a word table of its own: a rank saves parameters and adds FLOPs.
    _, share = cheapest_architecture(setup.space, costs.function(budget))
    if share <= costs.limit(budget):
        return ""

    limits = " and ".join(f"{kind} <= {format_cost(kind, v)}" for kind, v in costs.limits(budget).items())
    return (
        f"Budget {budget.name}: {limits} cannot be met together, because no word table of the space is "
        "small enough for one limit and fast enough for the other. Raise one of the limits, or add "
        "smaller values to embeddings.rank, space.ffn, space.heads or space.depth."
    )


def format_cost(kind: str, value: float, *, round_up: bool = False) -> str:
    """Return a cost for a message.

    Args:
        kind: Kind of the cost.
        value: The cost.
        round_up: Whether a measured cost is rounded up: as a limit, it is then feasible.
    """
    if kind not in DEVICE_KINDS:
        return f"{value:,.0f}"
    if not round_up:
        return f"{value:,.4g}"
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 2
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:,.10g}"

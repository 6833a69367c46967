"""What methods share that train one super-network, search it for every budget, and heal the winners.

A subclass of `ElasticMethod` says how the super-network is trained (`training_plan`) and how it is
searched (`search_settings`); `hat.py` and `sandwich.py` show how.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from raycomp.config.budget import BudgetSettings
from raycomp.config.search import SearchSettings
from raycomp.data.batches import smallest_batch
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.healing import find_lost_evaluations, heal_group, plan_healing
from raycomp.methods.registry import load_sampler
from raycomp.methods.subnetworks import (
    compress_budgets,
    release_supernet,
    restore_subnetwork,
    summarise_search,
)
from raycomp.methods.supernet import (
    explain_infeasible,
    plan_supernet_flops,
    smallest_cost,
    train_supernet,
    unmet_deployables,
)
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace

Draw = Callable[[int], list[Architecture]]
"""Function from a step to the networks that it trains."""


class ElasticMethod(Method):
    """A method with one super-network; its training tasks train it, and heal networks of it.

    Attributes:
        description: Sentence of the model card.
    """

    description: ClassVar[str]
    takes_all_limits: ClassVar[bool] = True

    @abstractmethod
    def training_plan(self, context: RunContext, num_rows: int) -> dict[str, Any]:
        """Return the plan of `SupernetTask`.

        Args:
            context: The run's context.
            num_rows: Rows of the training split.
        """

    @abstractmethod
    def search_settings(self, context: RunContext) -> SearchSettings:
        """Return how the super-network is searched."""

    def compress(self, run: Run) -> list[Deployable]:
        """Train the super-network, search every budget, and heal the best networks."""
        context = run.context
        if unmet := unmet_deployables(context):
            return unmet
        self.train(run)
        return compress_budgets(
            run, self.search_settings(context), self.description, self.task_name("heal")
        )

    def train(self, run: Run) -> None:
        """Train the super-network, unless it is trained."""
        plan = self.training_plan(run.context, len(run.context.tokens("train")))
        train_supernet(run, self.task_name("supernet"), plan)

    def task_name(self, kind: str) -> str:
        """Return the key in `tasks` of a kind of training, "supernet" or "heal"."""
        return f"{self.name}-{kind}"

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Heal one group of networks, in a process of its own."""
        heal_group(run, self.task_name("heal"), trial)

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from the trained super-network."""
        return restore_subnetwork(context, row, self.description)

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the cost of the smallest network of the search space."""
        return smallest_cost(context, kind)

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why no network of the search space meets a budget."""
        return explain_infeasible(context, budget)

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the rows of the smallest batch of the super-network's training and of healing."""
        sizes = [context.job.train.batch_size]
        if context.job.heal.steps:
            sizes.append(context.job.heal.batch_size)
        return [smallest_batch(len(context.task.train), size) for size in sizes]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the steps of each phase and the FLOPs of training (three forward passes a step)."""
        plan = self.training_plan(context, len(context.task.train))
        flops = plan_supernet_flops(
            context,
            self.plan_draws(context, plan),
            plan["num_steps"],
            context.job.train.batch_size,
            plan["distill"],
        )
        healing = plan_healing(context)
        flops += healing.pop("flops")
        return {"steps": self.phase_steps(plan), "heal": healing, "flops": flops}

    def phase_steps(self, plan: dict[str, Any]) -> list[int]:
        """Return the steps of each phase of a training plan: one phase."""
        return [plan["num_steps"]]

    def plan_draws(self, context: RunContext, plan: dict[str, Any]) -> Draw:
        """Return a function from a step to the networks that count as its draws in `raycomp plan`.

        Args:
            context: The run's context.
            plan: The training plan.
        """
        ask: Draw = load_sampler(plan["sampler"]["name"])(context.job, plan).ask
        return ask

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Name the healed networks without an evaluation. It is written again."""
        return find_lost_evaluations(context, parts)

    def release(self) -> None:
        """Release the super-network."""
        release_supernet()

    def summary(self, run: Run) -> dict[str, Any]:
        """Return how many evaluations the search took, and what healing cost."""
        return summarise_search(run)


class StatelessSampler:
    """Abstract: a sampler whose draws are a function of (seed, step): all ranks draw the same.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Ignore the losses: nothing is learnt from them."""

    def info(self, step: int) -> dict[str, Any]:
        """Return the columns of table `steps`: nothing exploits what was learnt."""
        return {"p_exploit": 0.0, "explored": True}

    def state(self, step: int) -> dict[str, Any]:
        """Return the uniform distribution, in the form that the deployment search reads."""
        distribution = ArchitectureDistribution(self.space.variables(joint=False))
        return {"joint": False, "dist": distribution.state_dict()}

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return no rows: the distribution never changes."""
        return []

    def missing(self, step: int) -> list[int]:
        """Return no ranks: the sampler hears of none."""
        return []


def plan_one_phase(
    context: RunContext, sampler: dict[str, Any], *, epochs: float, num_rows: int, distill: str = "none"
) -> dict[str, Any]:
    """Return the plan of `SupernetTask` for a training without phases.

    Args:
        context: The run's context.
        sampler: The plan's value of `sampler`.
        epochs: Passes over the training split.
        num_rows: Rows of the training split.
        distill: The plan's value of `distill`.
    """
    return {
        "space": context.space.to_dict(),
        "num_steps": steps_of_epochs(epochs, num_rows, context.job.train.batch_size),
        "phase_starts": [0],
        "distill": distill,
        "sampler": sampler,
    }


def search_as_published(context: RunContext, searcher: str, **changes: Any) -> SearchSettings:
    """Return [search] with one searcher, where the network with the best score wins, as in most papers.

    Args:
        context: The run's context.
        searcher: Name of the searcher.
        **changes: Further settings of [search].
    """
    published = {
        "searchers": [searcher],
        "shared_fraction": 0.0,
        "min_use": 0.0,
        "smoothing": 0.0,
        "choose_by": "score",
    }
    return context.job.search.model_copy(update=published | changes)


def steps_of_epochs(epochs: float, num_rows: int, batch_size: int) -> int:
    """Return the steps of some passes over the training split, at least 1."""
    return max(1, round(epochs * math.ceil(num_rows / batch_size)))


def shared_architecture(depth: int, heads: int, ffn: int) -> Architecture:
    """Return an architecture whose layers have equal widths."""
    return Architecture(depth, (heads,) * depth, (ffn,) * depth)

"""What methods share that train one super-network, search it for every budget, and heal the winners.

A subclass of `ElasticMethod` says how the super-network is trained (`training_plan`) and how it is
searched (`search_settings`); `hat.py` and `sandwich.py` show how.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from raycomp.config.budget import BudgetSettings
from raycomp.config.search import SearchSettings
from raycomp.data.batches import smallest_batch
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.healing import find_lost_evaluations, heal_group, plan_healing
from raycomp.methods.registry import SAMPLERS, import_object
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

PUBLISHED_CHOICE: dict[str, Any] = {"shared_fraction": 0.0, "min_use": 0.0, "smoothing": 0.0}
"""Settings of [search] with which the network with the best score wins, as in the papers."""


class ElasticMethod(Method):
    """A method with one super-network. Its training tasks are "NAME-supernet" and "NAME-heal".

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
        return compress_budgets(run, self.search_settings(context), self.description, f"{self.name}-heal")

    def train(self, run: Run) -> None:
        """Train the super-network, unless it is trained."""
        plan = self.training_plan(run.context, len(run.context.tokens("train")))
        train_supernet(run, f"{self.name}-supernet", plan)

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Heal one group of networks, in a process of its own."""
        heal_group(run, f"{self.name}-heal", trial)

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
        """Return the steps and the FLOPs of training (three forward passes a step)."""
        plan = self.training_plan(context, len(context.task.train))
        sampler = import_object(SAMPLERS[plan["sampler"]["name"]])(context.job, plan)
        steps = plan["num_steps"]
        flops = plan_supernet_flops(
            context, sampler.ask, steps, context.job.train.batch_size, plan["distill"]
        )
        healing = plan_healing(context)
        flops += healing.pop("flops")
        return {"steps": [steps], "heal": healing, "flops": flops}

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


def steps_of_epochs(epochs: float, num_rows: int, batch_size: int) -> int:
    """Return the steps of some passes over the training split, at least 1."""
    return max(1, round(epochs * math.ceil(num_rows / batch_size)))


def shared_architecture(depth: int, heads: int, ffn: int) -> Architecture:
    """Return an architecture whose layers have equal widths."""
    return Architecture(depth, (heads,) * depth, (ffn,) * depth)

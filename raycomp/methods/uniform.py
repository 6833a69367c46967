"""Uniform sampling with evolution: HAT's training with this job's search; `hat.py` has HAT's search.

Each step trains one sub-network, drawn uniformly per variable, on the labels only (HAT, Section 3.2). An
evolutionary search then chooses the sub-network of each budget. Differences from HAT: heads are removed
instead of re-partitioned; the super-network starts from a fine-tuned encoder; the search prefers the
better score on the selection split, then the smaller loss (HAT: validation loss only), and makes as many
evaluations as [search] says (HAT: 30 generations of 125); the winner inherits its weights and is healed
(`heal.steps`) instead of being trained from scratch.

Source: H. Wang, Z. Wu, Z. Liu, H. Cai, L. Zhu, C. Gan, S. Han. HAT: Hardware-Aware Transformers for
Efficient Natural Language Processing. ACL 2020. https://arxiv.org/abs/2005.14187
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.config.section import MethodSettings, choices
from raycomp.data.batches import smallest_batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask
from raycomp.methods.healing import find_lost_evaluations, heal_group, plan_healing
from raycomp.methods.subnetworks import (
    compress_budgets,
    release_supernet,
    restore_subnetwork,
    summarise_search,
)
from raycomp.methods.supernet import (
    SupernetTask,
    explain_infeasible,
    plan_supernet_flops,
    smallest_cost,
    train_supernet,
    unmet_deployables,
)
from raycomp.methods.tasks import TrainingTask
from raycomp.search.cost_targets import CostTargets, job_targets
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace

DESCRIPTION = (
    "Extracted by raycomp from a super-network that was trained on uniformly sampled sub-networks (HAT, "
    "adapted to BERT) and searched by evolution."
)
HEAL = "uniform-heal"


class UniformSettings(MethodSettings):
    """Uniform sampling with evolution; [train] sets the optimizer. `hat` is HAT's recipe."""

    method: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Uniform sampling with evolution"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs",)
    shared_sections: ClassVar[tuple[str, ...]] = ("heal",)

    epochs: float = Field(
        10.0, gt=0, le=10_000, description="Passes over the training split, one sub-network per step."
    )
    samples: int = Field(
        1,
        ge=1,
        le=64,
        description="Sub-networks per step. HAT's form is 1; their gradients are averaged.",
    )
    distill: Literal["none", "logits", "hidden"] = Field(
        "none",
        description=choices(
            "What the sub-networks learn from.",
            {
                "none": "the labels only (HAT's form)",
                "logits": "the labels and the teacher's predictions",
                "hidden": "the labels, the teacher's predictions and its hidden states",
            },
        ),
    )


class UniformSampler:
    """Draws every sub-network of a step uniformly per variable, as a function of (seed, step).

    `train.budget_share` and `train.cost_share` draw some of the steps for a cost instead.

    All ranks therefore draw the same sub-networks without asking each other.

    Args:
        space: The search space.
        samples: Sub-networks per step.
        seed: Seed of the draws.
        targets: Draws some of the steps for a cost; None leaves no step to it.
    """

    def __init__(
        self, space: SearchSpace, samples: int, seed: int, targets: CostTargets | None = None
    ) -> None:
        self._space = space
        self._samples = samples
        self._seed = seed
        self._targets = targets

    def ask(self, step: int) -> list[Architecture]:
        """Return the sub-networks of a step."""
        rng = np.random.default_rng((self._seed, step))
        if self._targets is not None:
            archs = self._targets.draw(self._space, self._samples, rng)
            if archs is not None:
                return archs
        return [self._space.sample_uniform(rng) for _ in range(self._samples)]

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Ignore the losses: the distribution stays uniform."""

    def info(self, step: int) -> dict[str, Any]:
        """Return the columns of table `steps`: nothing exploits what was learnt."""
        return {"p_exploit": 0.0, "explored": True}

    def state(self, step: int) -> dict[str, Any]:
        """Return the uniform distribution, in the form that the deployment search reads."""
        distribution = ArchitectureDistribution(self._space.variables(joint=False))
        return {"joint": False, "dist": distribution.state_dict()}

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return no rows: the distribution never changes."""
        return []

    def missing(self, step: int) -> list[int]:
        """Return no ranks: the sampler hears of none."""
        return []


def build_sampler(job: Job, plan: dict[str, Any]) -> UniformSampler:
    """Return the sampler of a training plan."""
    space = SearchSpace.from_dict(plan["space"])
    costs = CostModel(EncoderShape.from_dict(plan["shape"]), plan["length"])
    targets = job_targets(job, space, costs)
    return UniformSampler(space, plan["sampler"]["samples"], job.run.seed, targets)


class Uniform(Method):
    """Uniform sampling with evolution (HAT, adapted to BERT)."""

    settings: ClassVar[type[MethodSettings]] = UniformSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "uniform-supernet": SupernetTask,
        HEAL: HealTask,
    }
    takes_all_limits: ClassVar[bool] = True

    def compress(self, run: Run) -> list[Deployable]:
        """Train the super-network on uniform samples, then search every budget by evolution."""
        if unmet := unmet_deployables(run.context):
            return unmet
        job = run.context.job
        train_supernet(run, "uniform-supernet", _training_plan(run.context))
        search = job.search.model_copy(update={"searchers": ["evolution"]})
        return compress_budgets(run, search, DESCRIPTION, HEAL)

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Heal one group of networks, in a process of its own."""
        heal_group(run, HEAL, trial)

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from the trained super-network."""
        return restore_subnetwork(context, row, DESCRIPTION)

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
        plan = _training_plan(context)
        steps = plan["num_steps"]
        flops = plan_supernet_flops(
            context,
            build_sampler(context.job, plan).ask,
            steps,
            context.job.train.batch_size,
            plan["distill"],
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


def _training_plan(context: RunContext) -> dict[str, Any]:
    settings = context.job.settings(UniformSettings)
    return {
        "space": context.space.to_dict(),
        "num_steps": _num_steps(context, len(context.tokens("train"))),
        "phase_starts": [0],
        "distill": settings.distill,
        "sampler": {"name": "uniform", "samples": settings.samples},
        "shape": context.shape.to_dict(),
        "length": context.flops_length,
    }


def _num_steps(context: RunContext, num_rows: int) -> int:
    epochs = context.job.settings(UniformSettings).epochs
    return max(1, round(epochs * math.ceil(num_rows / context.job.train.batch_size)))

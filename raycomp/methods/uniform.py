"""Uniform sampling with evolution: HAT's recipe, adapted to BERT.

Each step trains one sub-network, drawn uniformly per variable, on the labels only (HAT, Section 3.2). An
evolutionary search then chooses the sub-network of each budget. Differences from HAT: heads are removed
instead of re-partitioned; the super-network starts from a fine-tuned encoder; the search prefers the
better score on the selection split, then the smaller loss (HAT: validation loss only), and makes as many
evaluations as [search] says (HAT: 30 generations of 125); the winner inherits its weights instead of
being trained from scratch.

refs: H. Wang, Z. Wu, Z. Liu, H. Cai, L. Zhu, C. Gan, S. Han. HAT: Hardware-Aware Transformers for
    Efficient
Natural Language Processing. ACL 2020. https://arxiv.org/abs/2005.14187
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
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.supernet import (
    SupernetTask,
    explain_infeasible,
    release_supernet,
    restore_subnetwork,
    search_supernet,
    smallest_cost,
    summarise_search,
    train_supernet,
    unmet_deployables,
)
from raycomp.methods.tasks import TrainingTask
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace

DESCRIPTION = (
    "Extracted by raycomp from a super-network that was trained on uniformly sampled sub-networks (HAT, "
    "adapted to BERT) and searched by evolution. No fine-tuning followed the extraction."
)


class UniformSettings(MethodSettings):
    """Uniform sampling with evolution (HAT, adapted to BERT); [train] sets optimizer and batch size."""

    method: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Uniform sampling with evolution (HAT, adapted to BERT)"

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

    All ranks therefore draw the same sub-networks without asking each other.

    Args:
        space: The search space.
        samples: Sub-networks per step.
        seed: Seed of the draws.
    """

    def __init__(self, space: SearchSpace, samples: int, seed: int) -> None:
        self._space = space
        self._samples = samples
        self._seed = seed

    def ask(self, step: int) -> list[Architecture]:
        """Return the sub-networks of a step."""
        rng = np.random.default_rng((self._seed, step))
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
    space = plan["space"]
    return UniformSampler(
        SearchSpace(space["layers"], tuple(space["depth"]), tuple(space["heads"]), tuple(space["ffn"])),
        plan["sampler"]["samples"],
        job.run.seed,
    )


class Uniform(Method):
    """Uniform sampling with evolution (HAT, adapted to BERT)."""

    settings: ClassVar[type[MethodSettings]] = UniformSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"uniform-supernet": SupernetTask}

    def compress(self, run: Run) -> list[Deployable]:
        """Train the super-network on uniform samples, then search every budget by evolution."""
        if unmet := unmet_deployables(run.context):
            return unmet
        job = run.context.job
        train_supernet(run, "uniform-supernet", _training_plan(run.context))
        search = job.search.model_copy(update={"searchers": ["evolution"]})
        return search_supernet(run, search, DESCRIPTION)

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
        """Return the rows of the smallest batch of the super-network's training."""
        return [smallest_batch(len(context.task.train), context.job.train.batch_size)]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the steps and the FLOPs of training (three forward passes a step)."""
        settings = context.job.settings(UniformSettings)
        steps = _num_steps(context, len(context.task.train))
        full, smallest = context.flops_per_row()
        teacher = full if settings.distill != "none" else 0.0
        per_row = 3 * settings.samples * (full + smallest) / 2 + teacher
        return {"steps": [steps], "flops": steps * context.job.train.batch_size * per_row}

    def release(self) -> None:
        """Release the super-network."""
        release_supernet()

    def summary(self, run: Run) -> dict[str, Any]:
        """Return how many evaluations the search took, in all and for the most expensive budget."""
        return summarise_search(run)


def _training_plan(context: RunContext) -> dict[str, Any]:
    settings = context.job.settings(UniformSettings)
    space = context.space
    return {
        "space": {
            "layers": space.num_layers,
            "depth": list(space.depth),
            "heads": list(space.heads),
            "ffn": list(space.ffn),
        },
        "num_steps": _num_steps(context, len(context.tokens("train"))),
        "phase_starts": [0],
        "distill": settings.distill,
        "sampler": {"name": "uniform", "samples": settings.samples},
    }


def _num_steps(context: RunContext, num_rows: int) -> int:
    epochs = context.job.settings(UniformSettings).epochs
    return max(1, round(epochs * math.ceil(num_rows / context.job.train.batch_size)))

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

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from raycomp.config.job import Job
from raycomp.config.search import SearchSettings
from raycomp.config.section import MethodSettings, choices
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.methods.context import RunContext
from raycomp.methods.elastic_method import ElasticMethod, StatelessSampler, plan_one_phase
from raycomp.methods.heal_task import HealTask
from raycomp.methods.supernet import SupernetTask
from raycomp.methods.tasks import TrainingTask
from raycomp.search.cost_targets import CostTargets, job_targets
from raycomp.search.space import SearchSpace


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


class UniformSampler(StatelessSampler):
    """Draws every sub-network of a step uniformly per variable.

    `train.budget_share` and `train.cost_share` draw some of the steps for a cost instead.

    Args:
        space: The search space.
        samples: Sub-networks per step.
        seed: Seed of the draws.
        targets: Draws some of the steps for a cost; None leaves no step to it.
    """

    def __init__(
        self, space: SearchSpace, samples: int, seed: int, targets: CostTargets | None = None
    ) -> None:
        super().__init__(space)
        self._samples = samples
        self._seed = seed
        self._targets = targets

    def ask(self, step: int) -> list[Architecture]:
        """Return the sub-networks of a step."""
        rng = np.random.default_rng((self._seed, step))
        if self._targets is not None:
            archs = self._targets.draw(self.space, self._samples, rng)
            if archs is not None:
                return archs
        return [self.space.sample_uniform(rng) for _ in range(self._samples)]


def build_sampler(job: Job, plan: dict[str, Any]) -> UniformSampler:
    """Return the sampler of a training plan."""
    space = SearchSpace.from_dict(plan["space"])
    costs = CostModel(EncoderShape.from_dict(plan["shape"]), plan["length"])
    targets = job_targets(job, space, costs)
    return UniformSampler(space, plan["sampler"]["samples"], job.run.seed, targets)


class Uniform(ElasticMethod):
    """Uniform sampling with evolution (HAT, adapted to BERT)."""

    settings: ClassVar[type[MethodSettings]] = UniformSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "uniform-supernet": SupernetTask,
        "uniform-heal": HealTask,
    }
    description: ClassVar[str] = (
        "Extracted by raycomp from a super-network that was trained on uniformly sampled sub-networks "
        "(HAT, adapted to BERT) and searched by evolution."
    )

    def training_plan(self, context: RunContext, num_rows: int) -> dict[str, Any]:
        """Return the plan of the super-network's training: uniform samples."""
        settings = context.job.settings(UniformSettings)
        sampler = {"name": "uniform", "samples": settings.samples}
        plan = plan_one_phase(
            context, sampler, epochs=settings.epochs, num_rows=num_rows, distill=settings.distill
        )
        # The sampler may draw networks of a given cost.
        return plan | {"shape": context.shape.to_dict(), "length": context.flops_length}

    def search_settings(self, context: RunContext) -> SearchSettings:
        """Return the job's search, by evolution."""
        return context.job.search.model_copy(update={"searchers": ["evolution"]})

"""The sandwich rule with in-place distillation (BigNAS), on a BERT super-network.

Each step trains the largest network on the labels. Its detached predictions then teach the smallest
network and n - 2 random ones, which see no labels. The gradients are summed for one update. All networks
are trained at once, without progressive phases. Differences: the learning rate is that of [train]
(BigNAS: exponential decay to a constant floor), and so is the dropout of all networks (BigNAS: only the
largest is regularised).

refs: J. Yu, P. Jin, H. Liu, G. Bender, P. Kindermans, M. Tan, T. Huang, X. Song, R. Pang, Q. Le. BigNAS:
Scaling Up Neural Architecture Search with Big Single-Stage Models. ECCV 2020.
https://arxiv.org/abs/2003.11142
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from raycomp.config.job import Job
from raycomp.config.search import SearchSettings
from raycomp.config.section import MethodSettings
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.context import RunContext
from raycomp.methods.elastic_method import (
    ElasticMethod,
    StatelessSampler,
    plan_one_phase,
    search_as_published,
)
from raycomp.methods.heal_task import HealTask
from raycomp.methods.supernet import SupernetTask
from raycomp.methods.tasks import TrainingTask
from raycomp.search.space import SearchSpace
from raycomp.training.hints import Logits
from raycomp.training.objectives import label_loss
from raycomp.training.supernet_step import SupernetStep


class SandwichSettings(MethodSettings):
    """Sandwich rule with in-place distillation; [train] sets optimizer and batch size."""

    method: ClassVar[str] = "sandwich"
    title: ClassVar[str] = "Sandwich + in-place KD (BigNAS rule)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs",)
    shared_sections: ClassVar[tuple[str, ...]] = ("heal",)

    epochs: float = Field(
        3.0, gt=0, le=10_000, description="Passes over the training split, `samples` networks per step."
    )
    samples: int = Field(
        4,
        ge=2,
        le=64,
        description="Networks per step: the largest, the smallest, and random ones (n in the paper).",
    )


class SandwichSampler(StatelessSampler):
    """Returns the largest network first, then the smallest and random ones.

    Args:
        space: The search space.
        samples: Networks per step.
        seed: Seed of the draws.
    """

    def __init__(self, space: SearchSpace, samples: int, seed: int) -> None:
        super().__init__(space)
        self._samples = samples
        self._seed = seed

    def ask(self, step: int) -> list[Architecture]:
        """Return the networks of a step."""
        rng = np.random.default_rng((self._seed, step))
        middle = [self.space.sample_uniform(rng) for _ in range(self._samples - 2)]
        return [self.space.largest(), self.space.smallest(), *middle]


def build_sampler(job: Job, plan: dict[str, Any]) -> SandwichSampler:
    """Return the sampler of a training plan."""
    space = SearchSpace.from_dict(plan["space"])
    return SandwichSampler(space, plan["sampler"]["samples"], job.run.seed)


class SandwichStep(SupernetStep):
    """A step whose first network learns from the labels, and the others from its predictions."""

    _largest: ElasticOutput

    def slice_losses(
        self, position: int, output: ElasticOutput, target: ElasticOutput | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the label loss of the largest network, or the soft cross-entropy with it."""
        # Reported for all networks; only the largest one is trained on it.
        labels = label_loss(output.logits, batch.labels, batch.total)
        if position == 0:
            # In-place distillation must not change the largest network.
            self._largest = ElasticOutput(output.logits.detach())
            return labels, labels.detach()
        return Logits().loss(output, self._largest, batch), labels.detach()


class SandwichTask(SupernetTask):
    """Training of a super-network by the sandwich rule."""

    step_class: ClassVar[type[SupernetStep]] = SandwichStep


class Sandwich(ElasticMethod):
    """Sandwich rule with in-place distillation."""

    settings: ClassVar[type[MethodSettings]] = SandwichSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "sandwich-supernet": SandwichTask,
        "sandwich-heal": HealTask,
    }
    description: ClassVar[str] = (
        "Extracted by raycomp from a super-network that was trained by the sandwich rule with in-place "
        "distillation (BigNAS) and searched from coarse to fine."
    )

    def training_plan(self, context: RunContext, num_rows: int) -> dict[str, Any]:
        """Return the plan of the super-network's training; no other teacher is read."""
        settings = context.job.settings(SandwichSettings)
        sampler = {"name": "sandwich", "samples": settings.samples}
        plan = plan_one_phase(context, sampler, epochs=settings.epochs, num_rows=num_rows)
        return plan | {"average": False}

    def search_settings(self, context: RunContext) -> SearchSettings:
        """Return the search from coarse to fine, with the evaluations of [search]."""
        return search_as_published(context, "coarse_to_fine")

"""Once-for-All (OFA), adapted to BERT: progressive shrinking, then evolution on an accuracy predictor.

The fine-tuned teacher is the largest network; it is the start of the super-network and its fixed teacher.
Depth, heads and FFN width become elastic one after the other, one smaller choice per phase, and stay so.
A step trains 1, 2 or 4 uniform networks (depth, heads, FFN); the gradients are summed. The loss of each
is

    L = CE_soft(teacher) + CE(label, smoothing 0.1)

Before each phase of heads or FFN the units are sorted by the L1 norm of the weights that read them, so
that the smaller networks keep the important ones. Units stay inside the bands that smaller choices
already use. Differences: the teacher runs without dropout; the optimizer is that of [train], and starts
again in each phase; [heal] may tune the winners.

refs: H. Cai, C. Gan, T. Wang, Z. Zhang, S. Han. Once-for-All: Train One Network and Specialize It for
Efficient Deployment. ICLR 2020. https://arxiv.org/abs/1908.09791
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

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
    search_as_published,
    steps_of_epochs,
)
from raycomp.methods.heal_task import HealTask
from raycomp.methods.ofa_phases import DIMENSIONS, plan_phases, sort_units
from raycomp.methods.supernet import SupernetTask
from raycomp.methods.supernet_start import find_start_problems
from raycomp.methods.tasks import SharedSampler, TrainingTask
from raycomp.search.space import SearchSpace
from raycomp.training.hints import Logits, Objective
from raycomp.training.loop import StepResult
from raycomp.training.objectives import label_loss


class OfaSettings(MethodSettings):
    """OFA, adapted to BERT; [train] sets optimizer and batch size, [heal] the tuning of the winners."""

    method: ClassVar[str] = "ofa"
    title: ClassVar[str] = "OFA (adapted to BERT)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs",)
    shared_sections: ClassVar[tuple[str, ...]] = ("heal",)

    epochs: float = Field(
        1.0,
        gt=0,
        le=10_000,
        description="Passes over the training split in each phase. A phase opens one smaller choice of "
        "depth, then of heads, then of the FFN width.",
    )
    samples: list[int] = Field(
        [1, 2, 4],
        min_length=3,
        max_length=3,
        description="Networks per step while depth, heads and FFN width are opened.",
    )
    predictor_samples: int = Field(
        1000,
        ge=4,
        description="Random networks whose scores the accuracy predictor is fitted to. The default is "
        "that of the released code.",
    )
    population: int = Field(100, ge=4, description="Networks of one round of the evolution.")
    rounds: int = Field(500, ge=1, description="Rounds of the evolution on predicted scores.")
    finalists: int = Field(
        8, ge=1, description="Best predicted networks that are scored before one is chosen."
    )


@dataclass(frozen=True)
class SmoothedLabels:
    """Cross-entropy with labels of which a part is spread over all classes.

    Attributes:
        smoothing: That part.
    """

    smoothing: float = 0.1
    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the mean loss; see `Hint.loss`."""
        if batch.labels.is_floating_point():
            return label_loss(student.logits, batch.labels, batch.total)
        # A sum over this worker's rows: the workers' losses add up.
        loss = F.cross_entropy(
            student.logits.float(), batch.labels, reduction="sum", label_smoothing=self.smoothing
        )
        return loss / batch.total


OBJECTIVE = Objective(((1.0, Logits()), (1.0, SmoothedLabels())))


class OfaSampler(StatelessSampler):
    """Draws uniform networks of the open choices.

    Args:
        space: The search space.
        phase_starts: First step of each phase.
        samples: Networks per step while depth, heads and FFN width are opened.
        seed: Seed of the draws.
        predictor: Settings of the search, which reads them from the sampler's state.
    """

    def __init__(
        self,
        space: SearchSpace,
        phase_starts: Sequence[int],
        samples: Sequence[int],
        seed: int,
        predictor: dict[str, Any],
    ) -> None:
        super().__init__(space)
        self.phases = plan_phases(space)
        self._starts = np.asarray(phase_starts)
        self._samples = dict(zip(DIMENSIONS, samples, strict=True))
        self._seed = seed
        self._predictor = predictor

    def phase_at(self, step: int) -> int:
        """Return the number of the phase of a step."""
        return int(np.searchsorted(self._starts, step, side="right")) - 1

    def ask(self, step: int) -> list[Architecture]:
        """Return the networks of a step."""
        phase = self.phases[self.phase_at(step)]
        # Earlier dimensions stay elastic, so all open choices are drawn.
        rng = np.random.default_rng((self._seed, step))
        return [phase.space.sample_uniform(rng) for _ in range(self._samples[phase.dimension])]

    def state(self, step: int) -> dict[str, Any]:
        """Return the uniform distribution and the settings of the search."""
        return {**super().state(step), "predictor": self._predictor}


def build_sampler(job: Job, plan: dict[str, Any]) -> OfaSampler:
    """Return the sampler of a training plan."""
    sampler = plan["sampler"]
    return OfaSampler(
        SearchSpace.from_dict(plan["space"]),
        plan["phase_starts"],
        sampler["samples"],
        job.run.seed,
        sampler["predictor"],
    )


class OfaTask(SupernetTask):
    """Progressive shrinking: each phase of heads or FFN begins with a sort of the units."""

    def begin(self, rank: int, world: int, sampler: SharedSampler | None) -> None:
        """Make the step; see `SupernetTask.begin`."""
        super().begin(rank, world, sampler)
        phases = plan_phases(SearchSpace.from_dict(self.plan["space"]))
        train_step = self.step

        def step(index: int, batch: Batch) -> StepResult:
            # A checkpoint is written between two steps: a resumed training sorts at the same step.
            if index in self.plan["phase_starts"]:
                phase = phases[self.plan["phase_starts"].index(index)]
                sort_units(self.model, phase)
            return train_step(index, batch)

        self.step = step


class Ofa(ElasticMethod):
    """OFA, adapted to BERT."""

    settings: ClassVar[type[MethodSettings]] = OfaSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "ofa-supernet": OfaTask,
        "ofa-heal": HealTask,
    }
    description: ClassVar[str] = (
        "Extracted by raycomp from a super-network that was trained by progressive shrinking (OFA, "
        "adapted to BERT) and searched by evolution on predicted scores."
    )

    def find_problems(self, context: RunContext) -> list[str]:
        """Return a message where the start is not the fine-tuned teacher, the trained largest network."""
        return find_start_problems(context, self.name)

    def training_plan(self, context: RunContext, num_rows: int) -> dict[str, Any]:
        """Return the plan of the super-network's training."""
        settings = context.job.settings(OfaSettings)
        phases = plan_phases(context.space)
        steps = steps_of_epochs(settings.epochs, num_rows, context.job.train.batch_size)
        predictor = {
            "samples": settings.predictor_samples,
            "population": settings.population,
            "rounds": settings.rounds,
        }

        return {
            "space": context.space.to_dict(),
            "num_steps": steps * len(phases),
            "phase_starts": [steps * i for i in range(len(phases))],
            "distill": "raycomp.methods.ofa:OBJECTIVE",
            "average": False,
            # The optimizer starts again in each phase: its moments are not sorted with the units.
            "train": {"schedule": "phase"},
            "sampler": {"name": "ofa", "samples": settings.samples, "predictor": predictor},
        }

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes of all phases."""
        return context.job.settings(OfaSettings).epochs * len(plan_phases(context.space))

    def search_settings(self, context: RunContext) -> SearchSettings:
        """Return the evolution on predicted scores: random networks, then the finalists."""
        settings = context.job.settings(OfaSettings)
        # The random networks do not depend on the budget, so all budgets share their scores.
        evaluations = settings.predictor_samples + settings.finalists
        return search_as_published(context, "predictor", evaluations=evaluations)

"""LayerDrop, fine-tuning only: layers are left out at random, then every other one is removed for good.

In each step of the first phase a layer of the pretrained network runs with probability 1 - p, without
rescaling. Then the layers floor(i L / n) stay, and are trained further without LayerDrop. The paper uses
LayerDrop in pre-training too, which needs a corpus; its authors say that fine-tuning with it is not
enough. Difference: a draw without any layer is drawn again, so with p = 5/6 and six layers a layer runs
with probability 1/4 instead of 1/6.

refs: A. Fan, E. Grave, A. Joulin. Reducing Transformer Depth on Demand with Structured Dropout. ICLR
2020. https://arxiv.org/abs/1909.11556
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, cast

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from raycomp.config.section import choices
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.methods.student_models import load_source, student_network
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import LABELS_ONLY
from raycomp.training.layer_maps import every_other_layers
from raycomp.training.phases import TrainingPhase, count_steps


class LayerdropSettings(StudentSettings):
    """LayerDrop without its pre-training; one student per budget."""

    method: ClassVar[str] = "layerdrop"
    title: ClassVar[str] = "LayerDrop-FT (fine-tuning only)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "finetune_epochs")

    start: Literal["teacher", "pretrained"] = Field(
        "pretrained",
        description=choices(
            "Weights before the first phase.",
            {
                "pretrained": "the model that the job names, with a new classifier if it lacks one (the "
                "paper's form)",
                "teacher": "the fine-tuned teacher, as in earlier versions",
            },
        ),
    )
    learning_rate: float = Field(
        2e-5,
        gt=0,
        lt=1,
        description="Largest learning rate of each phase. It falls linearly to 0. The paper uses 1e-5, "
        "2e-5 and 3e-5.",
    )
    rate: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Probability that a step leaves a layer out (p). The paper's form is 0.2. Not set: "
        "1 - n / L for n of L layers, which the paper names as the best value.",
    )
    finetune_epochs: float = Field(
        3.0,
        gt=0,
        le=1000,
        description="Passes over the training split after the pruning. `epochs` is before it.",
    )


class Layerdrop(StudentMethod):
    """LayerDrop, fine-tuning only."""

    settings: ClassVar[type[StudentSettings]] = LayerdropSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"layerdrop-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return every other layer."""
        return every_other_layers(len(context.shape.layer_heads), num_layers)

    def trained_network(self, context: RunContext, arch: Architecture) -> nn.Module:
        """Return the full network: its layers are left out only in some steps."""
        return student_network(context, context.space.largest())

    def start_weights(self, context: RunContext, arch: Architecture) -> dict[str, Tensor]:
        """Return the weights of the full network."""
        return load_source(context, context.job.settings(LayerdropSettings).start).state_dict()

    def student_weights(
        self, context: RunContext, model: nn.Module, arch: Architecture
    ) -> dict[str, Tensor]:
        """Return the weights of the layers that stay."""
        return cast(ElasticEncoder, model).extract(self._pruned(context, arch)).state_dict()

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return the phase with LayerDrop, then that of the pruned network."""
        settings = context.job.settings(LayerdropSettings)
        full = context.space.largest()
        pruned = self._pruned(context, arch)
        rate = settings.rate
        # The best rate for n of L layers, as the paper says.
        if rate is None:
            rate = 1 - arch.depth / full.depth

        seed = context.job.run.seed

        # A function of the step: all workers leave out the same layers.
        def draw(step: int) -> Architecture:
            return draw_layers(full, rate, np.random.default_rng((seed, step)))

        return (
            TrainingPhase(
                count_steps(settings.epochs, steps_per_epoch),
                settings.learning_rate,
                LABELS_ONLY,
                settings.warmup,
                arch_at=draw,
            ),
            TrainingPhase(
                count_steps(settings.finetune_epochs, steps_per_epoch),
                settings.learning_rate,
                LABELS_ONLY,
                settings.warmup,
                arch_at=lambda step: pruned,
            ),
        )

    def _pruned(self, context: RunContext, arch: Architecture) -> Architecture:
        """Return the student as a part of the full network."""
        return Architecture(arch.depth, arch.heads, arch.ffn, self.layers(context, arch.depth))


def draw_layers(full: Architecture, rate: float, rng: np.random.Generator) -> Architecture:
    """Return the layers of one step: each runs where its uniform number is above the rate.

    Args:
        full: The full network.
        rate: Probability that a layer is left out.
        rng: Generator of the draws.
    """
    while True:
        layers = tuple(int(i) for i in np.flatnonzero(rng.random(full.depth) > rate))
        # A network without layers has nothing to train; the step is drawn again.
        if layers:
            heads = tuple(full.heads[i] for i in layers)
            return Architecture(len(layers), heads, tuple(full.ffn[i] for i in layers), layers)

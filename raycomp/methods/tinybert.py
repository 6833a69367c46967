"""TinyBERT's task distillation without its general distillation, with or without data augmentation.

The first phase minimises, over the n student layers and their teacher layers i L / n,

    L = sum_i MSE(A_S,i, A_T,i) + sum_i MSE(W h_S,i, h_T,i)

where A are attention scores before the softmax, h are hidden states with the embeddings as state 0, and W
is one linear map for all states. The second phase is the soft cross-entropy with the teacher; no label is
read. TinyBERT first distils on a corpus ("general distillation"), from random weights; here the student
starts with layers of the teacher, and W with the identity. Augmentation adds new sentences, but an epoch
has as many steps as without it.

refs: X. Jiao, Y. Yin, L. Shang, X. Jiang, X. Chen, L. Li, F. Wang, Q. Liu. TinyBERT: Distilling BERT for
Natural Language Understanding. Findings of EMNLP 2020. https://arxiv.org/abs/1909.10351
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from raycomp.config.section import choices
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.methods.augmentation import (
    AugmentedData,
    augment_training_text,
    find_augmentation_problems,
)
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.student_models import ProjectedStudent, student_network
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.attention_hints import Attention
from raycomp.training.hints import Hidden, Logits, Objective, Projection
from raycomp.training.layer_maps import every_other_layers
from raycomp.training.phases import TrainingPhase, count_steps


class TinybertSettings(StudentSettings):
    """TinyBERT's task distillation, without general distillation; one student per budget."""

    method: ClassVar[str] = "tinybert"
    title: ClassVar[str] = "TinyBERT-TD (no GD)"
    shared_sections: ClassVar[tuple[str, ...]] = ("augment",)
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "intermediate_epochs")

    learning_rate: float = Field(
        3e-5,
        gt=0,
        lt=1,
        description="Largest learning rate of the second phase. It falls linearly to 0.",
    )
    intermediate_epochs: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="Passes of the first phase, on attention and hidden states. The paper's form is 5 to "
        "50 by task.",
    )
    intermediate_learning_rate: float = Field(
        5e-5, gt=0, lt=1, description="Learning rate of the first phase, which is constant."
    )
    augment: bool = Field(
        True,
        description="Whether the training text is augmented as [augment] says (DA in the paper).",
    )
    student: Literal["every_other", "first"] = Field(
        "every_other",
        description=choices(
            "Layers that the student starts with.",
            {"every_other": "every L/n-th, where the student has n of L", "first": "the first ones"},
        ),
    )
    per_class: bool = Field(
        False,
        description="Whether the soft cross-entropy is divided by the number of classes too, as in the "
        "released code.",
    )


class Tinybert(StudentMethod):
    """TinyBERT's task distillation."""

    settings: ClassVar[type[StudentSettings]] = TinybertSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"tinybert-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the layers that `tinybert.student` names."""
        if context.job.settings(TinybertSettings).student == "every_other":
            return every_other_layers(len(context.shape.layer_heads), num_layers)
        return tuple(range(num_layers))

    def trained_network(self, context: RunContext, arch: Architecture) -> nn.Module:
        """Return the student with the map of its hidden states."""
        return ProjectedStudent(student_network(context, arch), context.config.hidden_size)

    def start_weights(self, context: RunContext, arch: Architecture) -> dict[str, Tensor]:
        """Return the student's layers, and the identity as its map."""
        width = context.config.hidden_size
        weights = {f"student.{key}": value for key, value in super().start_weights(context, arch).items()}
        return {
            **weights,
            "project.weight": torch.eye(width),
            "project.bias": torch.zeros(width),
        }

    def student_weights(
        self, context: RunContext, model: nn.Module, arch: Architecture
    ) -> dict[str, Tensor]:
        """Return the student's weights, without the map."""
        return cast(ProjectedStudent, model).student.state_dict()

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return the phase on attention and hidden states, then the one on predictions."""
        settings = context.job.settings(TinybertSettings)
        project = None
        # Without a model, only the lengths of the phases are read.
        if isinstance(model, ProjectedStudent):
            project = model.project

        intermediate_steps = count_steps(settings.intermediate_epochs, steps_per_epoch)
        prediction_steps = count_steps(settings.epochs, steps_per_epoch)
        predictions = Objective(((1.0, Logits(per_class=settings.per_class)),))

        return (
            TrainingPhase(
                intermediate_steps,
                settings.intermediate_learning_rate,
                intermediate_objective(project),
                decay="constant",
            ),
            settings.to_phase(prediction_steps, predictions),
        )

    def training_tokens(self, context: RunContext) -> TokenSplit:
        """Return the training text, with the new sentences where the job augments it."""
        if not context.job.settings(TinybertSettings).augment:
            return context.tokens("train")
        return AugmentedData.of(context).augmented_tokens

    def prepare(self, run: Run) -> None:
        """Augment the training text where the job asks for it."""
        if run.context.job.settings(TinybertSettings).augment:
            # Tokenised first: the blocks of new sentences are counted by its rows.
            run.context.tokens("train")
            augment_training_text(run, AugmentedData.of(run.context))
        super().prepare(run)

    def find_problems(self, context: RunContext) -> list[str]:
        """Return a message where the job augments with a model that cannot fill masks."""
        if not context.job.settings(TinybertSettings).augment:
            return []
        return find_augmentation_problems(context)


def intermediate_objective(project: Projection | None) -> Objective:
    """Return the objective of the first phase.

    Args:
        project: Map of the student's hidden states.
    """
    states = Hidden(map="uniform", over_layers="sum", project=project)
    return Objective(((1.0, Attention(map="uniform", over_layers="sum")), (1.0, states)))

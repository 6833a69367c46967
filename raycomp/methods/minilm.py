"""MiniLM's relation distillation on the task's data: relations of the last layer, then the labels.

The first phase minimises, over the last layer only,

    L = sum over relations of KL(softmax(A_T A_T' / sqrt(d)) || softmax(A_S A_S' / sqrt(d)))

Version 1 relates queries with keys, and values with values. Version 2 relates queries, keys and values
with themselves, split into relation heads. The second phase fine-tunes on the labels. MiniLM distils on a
corpus into a student of random weights; here the text is that of the task, and the student starts with
layers of the teacher. Do not call a network of this method MiniLM: that is a released checkpoint.

refs: W. Wang, F. Wei, L. Dong, H. Bao, N. Yang, M. Zhou. MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers. NeurIPS 2020. https://arxiv.org/abs/2002.10957
W. Wang, H. Bao, S. Huang, L. Dong, F. Wei. MiniLMv2. Findings of ACL 2021.
https://arxiv.org/abs/2012.15828
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from raycomp.config.section import choices
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.attention_hints import MINILM_V1, MINILM_V2, Relations
from raycomp.training.hints import LABELS_ONLY, Objective
from raycomp.training.layer_maps import every_other_layers
from raycomp.training.phases import TrainingPhase, count_steps


class MinilmSettings(StudentSettings):
    """MiniLM-style relation distillation on the task's data; one student per budget."""

    method: ClassVar[str] = "minilm"
    title: ClassVar[str] = "MiniLM-style relation distillation (task data only)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "relation_epochs")

    relations: Literal["v1", "v2"] = Field(
        "v1",
        description=choices(
            "Relations of the last layer.",
            {
                "v1": "queries with keys, and values with values, in each attention head",
                "v2": "queries, keys and values with themselves, in `relation_heads` heads",
            },
        ),
    )
    relation_heads: int = Field(
        48,
        ge=1,
        description="Relation heads of version 2. They divide the width of all attention heads. The "
        "paper uses 48 for models of width 768.",
    )
    relation_epochs: float = Field(
        10.0, gt=0, le=1000, description="Passes over the training split before the labels are used."
    )
    relation_learning_rate: float = Field(
        1e-4,
        gt=0,
        lt=1,
        description="Largest learning rate of these passes. The paper uses 5e-4, with 1,024 texts of a "
        "corpus in each step.",
    )
    student: Literal["first", "every_other"] = Field(
        "first",
        description=choices(
            "Layers that the student starts with.",
            {"first": "the first ones", "every_other": "every L/n-th, where the student has n of L"},
        ),
    )


class Minilm(StudentMethod):
    """MiniLM-style relation distillation."""

    settings: ClassVar[type[StudentSettings]] = MinilmSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"minilm-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the layers that `minilm.student` names."""
        if context.job.settings(MinilmSettings).student == "every_other":
            return every_other_layers(len(context.shape.layer_heads), num_layers)
        return tuple(range(num_layers))

    def relation_objective(self, context: RunContext) -> Objective:
        """Return the objective of the first phase."""
        settings = context.job.settings(MinilmSettings)
        # Version 1 needs as many heads as the teacher has; a student of whole layers has them.
        if settings.relations == "v1":
            return Objective(((1.0, Relations(MINILM_V1)),))
        return Objective(((1.0, Relations(MINILM_V2, heads=settings.relation_heads)),))

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return the distillation of relations, then the fine-tuning on the labels."""
        settings = context.job.settings(MinilmSettings)
        relation_steps = count_steps(settings.relation_epochs, steps_per_epoch)
        label_steps = count_steps(settings.epochs, steps_per_epoch)
        distillation = TrainingPhase(
            relation_steps,
            settings.relation_learning_rate,
            self.relation_objective(context),
            settings.warmup,
        )

        return (distillation, settings.to_phase(label_steps, LABELS_ONLY))

    def find_problems(self, context: RunContext) -> list[str]:
        """Return a message where the relation heads do not divide the width of the attention."""
        settings = context.job.settings(MinilmSettings)
        width = context.shape.layer_heads[-1] * context.shape.head_size
        if settings.relations == "v1" or width % settings.relation_heads == 0:
            return []
        return [
            f"minilm.relation_heads is {settings.relation_heads}, which does not divide the attention's "
            f"width of {width}. Choose a divisor, or minilm.relations = 'v1'."
        ]

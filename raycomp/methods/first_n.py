"""First n layers: keep the first n layers of the network and fine-tune them, with or without
distillation.

The plain baseline that every other method must beat. With `distill = "logits"` and `start = "pretrained"`
it is the vanilla KD row of BERT-PKD's table.

refs: S. Sun, Y. Cheng, Z. Gan, J. Liu. Patient Knowledge Distillation for BERT Model Compression.
EMNLP 2019 (its rows "fine-tuning" and "vanilla KD"). https://arxiv.org/abs/1908.09355
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from raycomp.config.section import choices
from raycomp.methods.context import RunContext
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import DISTILLATION, Objective


class FirstNSettings(StudentSettings):
    """First n layers of the network, fine-tuned; one student per budget."""

    method: ClassVar[str] = "first_n"
    title: ClassVar[str] = "First n layers"

    distill: Literal["none", "logits", "hidden"] = Field(
        "hidden",
        description=choices(
            "What a student learns from.",
            {
                "none": "the labels only (plain fine-tuning)",
                "logits": "the labels and the teacher's predictions",
                "hidden": "the labels, the teacher's predictions and its hidden states",
            },
        ),
    )


class FirstN(StudentMethod):
    """First n layers, fine-tuned or distilled."""

    settings: ClassVar[type[StudentSettings]] = FirstNSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"first_n-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the first layers, counted from the input."""
        return tuple(range(num_layers))

    def objective(self, context: RunContext) -> Objective:
        """Return the objective that `first_n.distill` names."""
        return DISTILLATION[context.job.settings(FirstNSettings).distill]

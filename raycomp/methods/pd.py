"""Pre-trained Distillation's loss: the student sees the teacher's predictions and nothing else.

The paper trains a compact model on a corpus, distils it by soft cross-entropy on text without labels, and
may fine-tune it on the labels. Without the corpus only the second step is left. A student of this method
starts from the first layers of BERT and is therefore called "KD, first n", not PD-BERT.

refs: I. Turc, M. Chang, K. Lee, K. Toutanova. Well-Read Students Learn Better: On the Importance of
Pre-training Compact Models. 2019. https://arxiv.org/abs/1908.08962
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
from raycomp.training.hints import LABELS_ONLY, Logits, Objective
from raycomp.training.phases import TrainingPhase, count_steps


class PdSettings(StudentSettings):
    """Soft cross-entropy with the teacher's predictions; one student per budget."""

    method: ClassVar[str] = "pd"
    title: ClassVar[str] = "KD, first n (PD's loss, no pre-training)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "finetune_epochs")

    start: Literal["teacher", "pretrained"] = Field(
        "pretrained",
        description=choices(
            "Weights before the training.",
            {
                "pretrained": "layers of the model that the job names",
                "teacher": "layers of the fine-tuned teacher",
            },
        ),
    )
    epochs: float = Field(
        4.0, gt=0, le=1000, description="Passes over the training split, of which no label is read."
    )
    finetune_epochs: float = Field(
        0.0, ge=0, le=1000, description="Passes on the labels after the distillation. 0: none."
    )


class Pd(StudentMethod):
    """Soft cross-entropy on the task's text, without labels and intermediate states."""

    settings: ClassVar[type[StudentSettings]] = PdSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"pd-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the first layers, counted from the input."""
        return tuple(range(num_layers))

    def objective(self, context: RunContext) -> Objective:
        """Return the soft cross-entropy."""
        return Objective(((1.0, Logits()),))

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return the distillation, and the fine-tuning where the job asks for it."""
        settings = context.job.settings(PdSettings)
        distillation = super().phases(context, arch, steps_per_epoch, model)
        # The paper's third step, which is optional.
        if not settings.finetune_epochs:
            return distillation
        steps = count_steps(settings.finetune_epochs, steps_per_epoch)
        return (*distillation, settings.to_phase(steps, LABELS_ONLY))

"""DistilBERT's distillation on the task's data: predictions, labels and direction of the last states.

    L = 5 T^2 KL(teacher || student) + 2 L_CE + 1 (1 - cos(s, t))

with T = 2, where s and t are the last hidden states. DistilBERT distils the masked language model on a
corpus; here the classifier's predictions take the place of its predictions, and the labels that of the
masked words. Token types and pooler stay, which DistilBERT removes. Do not call a network of this method
DistilBERT: that is a released checkpoint.

refs: V. Sanh, L. Debut, J. Chaumond, T. Wolf. DistilBERT, a distilled version of BERT: smaller, faster,
cheaper and lighter. 2019. https://arxiv.org/abs/1910.01108
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from raycomp.methods.context import RunContext
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import Cosine, Labels, Logits, Objective
from raycomp.training.layer_maps import spread_layers


class DistilbertSettings(StudentSettings):
    """DistilBERT-style distillation on the task's data; one student per budget."""

    method: ClassVar[str] = "distilbert"
    title: ClassVar[str] = "DistilBERT-style KD (task data only)"

    warmup: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Part of the steps in which the learning rate rises from 0, from 0 to 1.",
    )
    temperature: float = Field(2.0, gt=0, description="Temperature of the predictions (T).")
    alpha_logits: float = Field(5.0, ge=0, description="Weight of the teacher's predictions.")
    alpha_labels: float = Field(
        2.0, ge=0, description="Weight of the labels, in place of DistilBERT's masked words."
    )
    alpha_cosine: float = Field(1.0, ge=0, description="Weight of the direction of the last states.")


class Distilbert(StudentMethod):
    """DistilBERT-style distillation."""

    settings: ClassVar[type[StudentSettings]] = DistilbertSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"distilbert-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return equally spaced layers from the first to the last."""
        return spread_layers(len(context.shape.layer_heads), num_layers)

    def objective(self, context: RunContext) -> Objective:
        """Return the weighted sum of the three terms; a term of weight 0 is left out."""
        settings = context.job.settings(DistilbertSettings)
        # KL, not cross-entropy: its value is 0 where the student equals the teacher.
        predictions = Logits(temperature=settings.temperature, divergence="kl")
        terms = (
            (settings.alpha_logits, predictions),
            (settings.alpha_labels, Labels()),
            (settings.alpha_cosine, Cosine()),
        )
        return Objective(tuple((weight, hint) for weight, hint in terms if weight > 0))

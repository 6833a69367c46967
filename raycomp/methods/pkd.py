"""BERT-PKD: a student of the first n layers that also matches the teacher's intermediate [CLS] states.

    L = (1 - alpha) L_CE + alpha L_KD(T) + beta L_PT

L_PT compares the [CLS] states s of the student's layers 1 to n - 1 with those of the matched teacher
layers, t, by || s / |s| - t / |t| ||^2: PKD-Skip (student layer i matches teacher layer ceil(i L / n)) or
PKD-Last (layer L - n + i). The paper's equation sums over the layers. The released code takes the mean
over layers and dimensions, and the published values of beta come from it: for six layers of width 768,
beta = 100 with the mean is beta = 0.026 with the sum.

refs: S. Sun, Y. Cheng, Z. Gan, J. Liu. Patient Knowledge Distillation for BERT Model Compression.
EMNLP 2019. https://arxiv.org/abs/1908.09355
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from raycomp.config.section import choices
from raycomp.methods.context import RunContext
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import Hidden, Labels, Logits, Objective


class PkdSettings(StudentSettings):
    """BERT-PKD (patient knowledge distillation); one student per budget."""

    method: ClassVar[str] = "pkd"
    title: ClassVar[str] = "BERT-PKD"
    # Earlier runs had the sum, and the paper's form of the settings after it.
    identity_defaults: ClassVar[dict[str, Any]] = {
        "patience": "sum",
        "normalise": True,
        "per_class": False,
    }

    start: Literal["teacher", "pretrained"] = Field(
        "pretrained",
        description=choices(
            "Weights before the training.",
            {
                "pretrained": "layers of the model that the job names (the paper's form)",
                "teacher": "layers of the fine-tuned teacher",
            },
        ),
    )
    epochs: float = Field(4.0, gt=0, le=1000, description="Passes over the training split.")
    map: Literal["skip", "last"] = Field(
        "skip",
        description=choices(
            "Layers of the teacher that the student's layers match. Its last layer is not matched.",
            {
                "skip": "every (L / n)-th layer, where the teacher has L layers and the student n",
                "last": "the last layers",
            },
        ),
    )
    temperature: float = Field(
        10.0, gt=0, description="Temperature of the logits (T). The paper uses 5, 10 and 20."
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of the teacher's predictions. The paper uses 0.2, 0.5 and 0.7.",
    )
    patience: Literal["mean", "sum"] = Field(
        "mean",
        description=choices(
            "How the squared distances of the CLS states are added up.",
            {
                "mean": "mean over layers and dimensions (the released code's form; the published values "
                "of `beta` belong to it)",
                "sum": "sum over layers and dimensions (the paper's equation). `beta` then has to be "
                "smaller by the number of layers times the width",
            },
        ),
    )
    beta: float = Field(
        100.0, ge=0, description="Weight of the CLS states. The paper uses 10, 100, 500 and 1000."
    )
    normalise: bool = Field(
        True,
        description="Whether the CLS states are scaled to length 1 before they are compared (the paper's "
        "form). The best published settings of MNLI, QNLI and QQP in the released code have false.",
    )
    per_class: bool = Field(
        False,
        description="Whether the teacher's term is divided by the number of classes too, as in the "
        "released code.",
    )


class Pkd(StudentMethod):
    """BERT-PKD."""

    settings: ClassVar[type[StudentSettings]] = PkdSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"pkd-student": StudentTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the first layers, counted from the input."""
        return tuple(range(num_layers))

    def objective(self, context: RunContext) -> Objective:
        """Return (1 - alpha) L_CE + alpha L_KD + beta L_PT; a term of weight 0 is left out."""
        settings = context.job.settings(PkdSettings)
        cls_states = Hidden(
            map=settings.map,
            on="cls",
            normalise=settings.normalise,
            over_layers=settings.patience,
            over_features=settings.patience,
        )

        predictions = Logits(
            temperature=settings.temperature, divergence="kl", per_class=settings.per_class
        )

        terms = (
            (1 - settings.alpha, Labels()),
            (settings.alpha, predictions),
            (settings.beta, cls_states),
        )
        return Objective(tuple((weight, hint) for weight, hint in terms if weight > 0))

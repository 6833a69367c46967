"""The distillation loss of AdaBERT's students: Eq. 1 without its efficiency term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.methods.adabert.losses import matched_layers, probe_loss, probe_weights, student_objective
from raycomp.training.objectives import label_loss, prediction_loss


class TeacherOutputs(Protocol):
    """The teacher's outputs for each row of the training text, computed once before the search."""

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes).

        Args:
            index: (batch,) row numbers of the training text, as in `Batch.index`.
        """
        ...


@dataclass(frozen=True)
class DistillationLoss:
    """The loss of a student on labels and on its teacher's outputs.

    Attributes:
        gamma: Share of distillation, 0 to 1 (Eq. 1).
        temperature: T of Eq. 3.
        hints: "probes" distils from the teacher's probes (Eqs. 3 and 4) and from its own prediction;
            "logits" distils from the prediction only (Base-KD in the paper's Table 4).
        regression: Whether the task has one real-valued output.
        scaled: Whether the loss of the probes is multiplied by T^2; see `losses.probe_loss`.
    """

    gamma: float
    temperature: float
    hints: str
    regression: bool
    scaled: bool = True

    def loss(
        self,
        logits: Tensor,
        probes: Sequence[Tensor],
        batch: Batch,
        teacher: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the label loss L_CE and the objective (1 - gamma) L_CE + gamma L_KD, two scalars.

        Args:
            logits: Prediction of the student, (batch, classes).
            probes: Logits of the student's probes, one (batch, classes) per cell.
            batch: Rows with their labels.
            teacher: Result of `TeacherOutputs.rows` for the batch.
        """
        teacher_logits, teacher_probes = teacher
        label = label_loss(logits, batch.labels, batch.total)
        distilled = prediction_loss(
            logits, teacher_logits, batch.total, regression=self.regression, temperature=self.temperature
        )

        if self.hints == "probes":
            layers = matched_layers(len(probes), teacher_probes.shape[1])
            targets = teacher_probes[:, [j - 1 for j in layers]]  # j counts from 1
            weights = probe_weights(targets, batch.labels)  # Eq. 4
            student_probes = torch.stack(list(probes), 1)
            distilled = distilled + probe_loss(  # Eq. 3
                student_probes, targets, weights, batch.total, self.temperature, scaled=self.scaled
            )

        # Eq. 1; the efficiency term depends on the structure only and is added by the search step.
        return label, student_objective(label, distilled, self.gamma)

"""The data that AdaBERT's students learn from: augmented text, and the teacher's outputs for it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from raycomp.errors import UserError
from raycomp.methods.adabert.distillation import DistillationLoss
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.student import StudentShape
from raycomp.methods.augmentation import AugmentedData
from raycomp.storage.revision import FIRST_REVISION


class DistillationData(AugmentedData):
    """A run's context with augmented text, the teacher's outputs for it, and the students' shape."""

    @functools.cached_property
    def teacher_outputs(self) -> CachedTeacherOutputs:
        """The teacher's outputs for the augmented split, memory-mapped."""
        return CachedTeacherOutputs(self, len(self.augmented_tokens))

    def distillation_loss(self, gamma: float) -> DistillationLoss:
        """Return the loss of this job's students (Eq. 1, 3 and 4).

        Args:
            gamma: Weight of distillation in Eq. 1.
        """
        settings = self.job.settings(AdabertSettings)
        return DistillationLoss(
            gamma,
            settings.temperature,
            settings.hints,
            self.regression,
            scaled=self.revision != FIRST_REVISION,
        )

    @property
    def student_shape(self) -> StudentShape:
        """The sizes of every student of this job.

        Raises:
            UserError: The task has two texts, and the tokenizer lacks a separator token.
        """
        settings = self.job.settings(AdabertSettings)
        pair = self.facts.pair
        separator = self.facts.sep_token_id
        if pair and separator is None:
            raise UserError(
                f"The tokenizer of {self.job.model.name} lacks a separator token, so AdaBERT cannot tell "
                "the two texts of a row apart. Choose another model."
            )
        return StudentShape(
            vocab_size=self.config.vocab_size,
            embedding_size=settings.embedding,
            width=settings.width,
            max_positions=min(self.job.task.max_length, self.config.max_positions),
            classes=self.facts.num_labels,
            pair=pair,
            sep_token_id=int(separator or 0),
            pad_token_id=self.pad_id,
            exact_match=pair and settings.exact_match,
        )


class CachedTeacherOutputs:
    """The teacher's logits and its probes' logits, one row per row of the augmented split.

    Raises:
        UserError: The files are missing, damaged, or of another number of rows.
    """

    def __init__(self, data: DistillationData, rows: int) -> None:
        folder = data.layout.adabert
        try:
            self.logits = np.load(data.layout.teacher_logits, mmap_mode="r", allow_pickle=False)
            self.probes = np.load(data.layout.probe_logits, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"Cached outputs of the teacher are missing or damaged in {folder} ({error}). Run the "
                "same command again to compute them."
            ) from None
        if len(self.logits) != rows or len(self.probes) != rows:
            raise UserError(
                f"{folder} has the teacher's outputs for {len(self.logits)} rows, but the data has "
                f"{rows}. Remove this directory and run the same command again."
            )

    def rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes) and probe logits (batch, teacher layers, classes).

        Args:
            index: Row numbers, (batch,).
        """
        return torch.from_numpy(self.logits[index]), torch.from_numpy(self.probes[index])

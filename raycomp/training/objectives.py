"""Losses over labels and over a teacher, each a SUM over examples divided by a given total.

Dividing by the rows of the whole global batch, not of this worker's share, makes the sum over
workers equal to the loss of one worker that holds the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_loss(logits: Tensor, labels: Tensor, total: int) -> Tensor:
    """Cross-entropy (classes) or squared error (regression, one column).

    Args:
        logits: (batch, classes), or (batch, 1) for regression.
        labels: (batch,) int64 classes or float targets.
        total: rows of the global batch.
    """
    logits = logits.float()
    if labels.is_floating_point():
        return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum") / total
    return F.cross_entropy(logits, labels, reduction="sum") / total


def prediction_loss(
    logits: Tensor, teacher: Tensor, total: int, *, regression: bool, temperature: float = 1.0
) -> Tensor:
    """Soft cross-entropy with the teacher's distribution, or squared error for regression.

    Args:
        logits: (batch, classes) of the student.
        teacher: (batch, classes) of the teacher.
        total: rows of the global batch.
        regression: one real-valued output instead of classes.
        temperature: divides both logits; the loss is multiplied by its square.
    """
    logits, teacher = logits.float(), teacher.float()
    if regression:
        return F.mse_loss(logits, teacher, reduction="sum") / total
    soft = torch.softmax(teacher / temperature, dim=-1)
    entropy = -(soft * torch.log_softmax(logits / temperature, dim=-1)).sum()
    return entropy * temperature**2 / total


def squared_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of squared differences of hidden states over real tokens, a scalar.

    Args:
        student: (batch, length, hidden).
        teacher: (batch, length, hidden).
        mask: (batch, length), True on real tokens.
    """
    is_real = mask.unsqueeze(-1).to(torch.float32)
    return ((student.float() - teacher.float()).square() * is_real).sum()

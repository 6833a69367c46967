"""Losses over labels and over a teacher, each a SUM over examples divided by a given total.

The total is that of the global batch, not of this worker's share: the sum over the workers is the loss of
one worker that has the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_loss(logits: Tensor, labels: Tensor, total: int) -> Tensor:
    """Return the cross-entropy with class labels, or the squared error for regression, a scalar.

    Args:
        logits: (batch, classes), or (batch, 1) for regression.
        labels: (batch,) int64 classes or float targets.
        total: Rows of the global batch.
    """
    logits = logits.float()
    if labels.is_floating_point():
        return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum") / total
    return F.cross_entropy(logits, labels, reduction="sum") / total


def prediction_loss(
    logits: Tensor, teacher: Tensor, total: int, *, regression: bool, temperature: float = 1.0
) -> Tensor:
    """Return the soft cross-entropy with the teacher's distribution, or squared error, a scalar.

    Args:
        logits: (batch, classes) of the student.
        teacher: (batch, classes) of the teacher.
        total: Rows of the global batch.
        regression: Whether the output is one real number instead of classes.
        temperature: Divisor of both logits; the loss is multiplied by its square.
    """
    logits = logits.float()
    teacher = teacher.float()
    if regression:
        return F.mse_loss(logits, teacher, reduction="sum") / total
    soft = torch.softmax(teacher / temperature, dim=-1)
    entropy = -(soft * torch.log_softmax(logits / temperature, dim=-1)).sum()
    # Gradients shrink by the square of the temperature (Hinton et al. 2015, Section 2).
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

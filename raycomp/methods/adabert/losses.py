"""Task-oriented distillation through probes (Eqs. 3 and 4) and the whole objective (Eq. 1).

Every loss is a SUM over the rows of this worker divided by the rows of the global batch, so that the
sum over workers is the loss of one worker that holds the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matched_layers(layers: int, teacher_layers: int) -> list[int]:
    """Return the teacher layer j = ceil(i J / K), from 1, of each student layer i = 1..K.

    The last student layer always meets the last teacher layer.
    """
    return [-(-i * teacher_layers // layers) for i in range(1, layers + 1)]


def probe_weights(teacher: Tensor, labels: Tensor) -> Tensor:
    """Return w (Eq. 4): per instance, a softmax over layers of the probe's negative loss on the label.

    Args:
        teacher: (batch, layers, classes) logits of the matched teacher probes; (batch, layers, 1)
            values for regression.
        labels: (batch,) int64 classes or float targets.

    Returns:
        (batch, layers), each row summing to 1: preciser probes weigh more.
    """
    teacher = teacher.float()
    if labels.is_floating_point():
        fit = -(teacher.squeeze(-1) - labels.unsqueeze(1)).square()
    else:
        log = torch.log_softmax(teacher, -1)
        fit = log.gather(2, labels[:, None, None].expand(-1, log.shape[1], 1)).squeeze(2)
    return torch.softmax(fit, 1)


def probe_loss(
    student: Tensor, teacher: Tensor, weights: Tensor, total: int, temperature: float = 1.0
) -> Tensor:
    """Eqs. 3 and 4: cross-entropy of each student probe with its matched teacher probe, weighted.

    The temperature divides the logits of both (the paper prints it inside the logarithm; at its
    T = 1 the two agree).

    Args:
        student: (batch, layers, classes) logits of the student's probes.
        teacher: (batch, layers, classes) logits of the matched teacher probes.
        weights: (batch, layers) of `probe_weights`.
        total: rows of the global batch.
        temperature: T.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        per_layer = (student - teacher).square().squeeze(-1)
    else:
        target = torch.softmax(teacher / temperature, -1)
        per_layer = -(target * torch.log_softmax(student / temperature, -1)).sum(-1)
    return (weights * per_layer).sum() / total


def student_objective(
    label: Tensor, distilled: Tensor, efficiency: Tensor | float, gamma: float, beta: float
) -> Tensor:
    """Eq. 1: (1 - gamma) L_CE + gamma L_KD + beta L_E."""
    return (1 - gamma) * label + gamma * distilled + beta * efficiency

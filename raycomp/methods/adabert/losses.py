"""Distillation through probes (Eqs. 3 and 4) and the whole objective of a student (Eq. 1).

Every loss is a sum over the rows of this worker divided by the rows of the global batch. The sum over
the workers is then the loss of one worker that has the whole batch.

Source: AdaBERT (Chen et al., 2020), Sections 2.2 and 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raycomp.arithmetic import ceil_div


def matched_layers(layers: int, teacher_layers: int) -> list[int]:
    """Return the teacher layer j = ceil(i J / K) of each student layer i = 1..K, counted from 1.

    The last student layer is always matched with the last teacher layer.

    >>> matched_layers(3, 12)
    [4, 8, 12]
    """
    return [ceil_div(i * teacher_layers, layers) for i in range(1, layers + 1)]


def probe_weights(teacher: Tensor, labels: Tensor) -> Tensor:
    """Return w of Eq. 4: per row, a softmax over layers of the probes' negative label losses.

    The probes that predict a row's label best have the largest weights for this row.

    Args:
        teacher: Logits of the matched teacher probes, (batch, layers, classes); for regression their
            outputs, (batch, layers, 1).
        labels: (batch,) int64 classes or float targets.

    Returns:
        (batch, layers); each row sums to 1.
    """
    teacher = teacher.float()
    if labels.is_floating_point():
        negative_loss = -(teacher.squeeze(-1) - labels.unsqueeze(1)).square()
    else:
        log_probabilities = torch.log_softmax(teacher, -1)
        index = labels[:, None, None].expand(-1, log_probabilities.shape[1], 1)
        negative_loss = log_probabilities.gather(2, index).squeeze(2)
    return torch.softmax(negative_loss, 1)  # Eq. 4


def probe_loss(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor,
    total: int,
    temperature: float = 1.0,
    *,
    scaled: bool = True,
) -> Tensor:
    """Return L_KD of Eqs. 3 and 4: weighted cross-entropies of the student's and the teacher's probes.

    The temperature divides both logits. The paper prints it inside the logarithm; at its T = 1 both
    forms are equal. The cross-entropies are multiplied by T^2, like that of the teacher's own prediction
    (`objectives.prediction_loss`): the weight of the two terms then does not depend on T.

    Args:
        student: Logits of the student's probes, (batch, layers, classes).
        teacher: Logits of the matched teacher probes, (batch, layers, classes).
        weights: Result of `probe_weights`, (batch, layers).
        total: Rows of the global batch.
        temperature: T.
        scaled: Whether the cross-entropies are multiplied by T^2. Runs of revision 1 are not.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        layer_losses = (student - teacher).square().squeeze(-1)
    else:
        target = torch.softmax(teacher / temperature, -1)
        layer_losses = -(target * torch.log_softmax(student / temperature, -1)).sum(-1)  # Eq. 3
        if scaled:
            layer_losses = layer_losses * temperature**2
    return (weights * layer_losses).sum() / total


def student_objective(label: Tensor, distilled: Tensor, gamma: float) -> Tensor:
    """Return (1 - gamma) L_CE + gamma L_KD, Eq. 1 without beta L_E.

    L_E does not depend on the rows; `step.SearchStep` adds it.

    Args:
        label: L_CE, the loss on the labels, a scalar.
        distilled: L_KD, the loss on the teacher's outputs, a scalar.
        gamma: Share of distillation, 0 to 1.
    """
    return (1 - gamma) * label + gamma * distilled  # Eq. 1

"""The training step of AdaBERT's children, and the update that it shares with the search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from raycomp.data.batches import Batch
from raycomp.methods.adabert.distillation import DistillationLoss, TeacherOutputs
from raycomp.methods.adabert.efficiency import training_flops
from raycomp.methods.adabert.student import Child
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import JointUpdater, Updater, autocast, set_training_mode


class ChildStep:
    """Trains a child on labels and on the teacher's outputs; the training loop calls it.

    Source: AdaBERT (Chen et al., 2020), Eq. 1 without the efficiency term, which a fixed structure
    does not change.
    """

    def __init__(
        self,
        child: Child,
        updater: Updater,
        *,
        teacher_outputs: TeacherOutputs,
        distillation: DistillationLoss,
        precision: str,
        device: torch.device,
    ) -> None:
        """Set up the training; the arguments are those of `step.SearchStep`."""
        self.child = child
        self.updater = updater
        self.teacher_outputs = teacher_outputs
        self.distillation = distillation
        self.precision = precision
        self.device = device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        batch = batch.to(self.device)
        teacher = to_device(self.teacher_outputs.rows(batch.index), self.device)
        set_training_mode(self.child)
        with autocast(self.precision, self.device):
            logits, probes = self.child(batch.input_ids, batch.attention_mask)

        label, objective = self.distillation.loss(logits, probes.unbind(1), batch, teacher)
        objective.backward()

        objective, label = reduce_and_update(
            self.updater, index, batch, self.child, self.child.parameters(), (objective, label)
        )
        tokens = int(batch.attention_mask.sum())
        flops = training_flops(self.child, self.child.structure, batch)
        return StepResult(float(objective), tokens, {"loss": float(label)}, flops)


def cosine_rate(high: float, low: float, total: int, step: int) -> float:
    """Return the learning rate of a step, which falls from `high` to `low` along half a cosine."""
    return low + (high - low) * (1 + math.cos(math.pi * step / max(1, total))) / 2


def to_device(pair: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both tensors on a device."""
    return pair[0].to(device), pair[1].to(device)


def reduce_and_update(
    updater: Updater | JointUpdater,
    index: int,
    batch: Batch,
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    losses: Sequence[Tensor],
) -> Tensor:
    """Sum gradients, losses and running statistics over the workers, and update the parameters.

    Args:
        updater: Optimizer of the parameters.
        index: Number of the step.
        batch: Rows of this worker, which knows the rows of the global batch.
        model: Network whose buffers are the running statistics of batch normalisation.
        parameters: Parameters with the gradients that this worker computed.
        losses: Scalars, each a sum over this worker's rows divided by the rows of the global batch.

    Returns:
        The losses over the global batch, (len(losses),).
    """
    loss_sums = torch.stack([loss.detach() for loss in losses])

    # Each worker normalises its own rows. The sum of the weighted statistics is their mean over the
    # global batch; without an all-reduce the buffers hold that already.
    statistics: list[Tensor] = []
    if updater.reduce:
        batch_share = len(batch.labels) / batch.total
        statistics = [buffer.detach() * batch_share for buffer in model.buffers()]

    gradients = [p.grad for p in parameters if p.grad is not None]
    updater.apply(index, [*gradients, *statistics], loss_sums)

    if statistics:
        with torch.no_grad():
            for buffer, mean in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(mean)
    return loss_sums

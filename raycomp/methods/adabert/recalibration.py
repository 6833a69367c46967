"""Running statistics of a child, measured again after it was cut out of its parent.

The parent's statistics are averages over random structures: what reaches a convolution depends on the
operations before it. Alone, the child has other inputs, so its statistics are measured on training text.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.operations import MOMENTUM, ReluConvNorm
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.student import Child

RECALIBRATION_BATCHES = 50
"""Training batches that the statistics are measured on, at most."""


@torch.no_grad()
def recalibrate(child: Child, batches: Iterable[Batch]) -> None:
    """Set the running statistics of a child to their means over batches. Its weights stay as they are.

    Args:
        child: The child; it is in eval mode afterwards.
        batches: At least one batch.
    """
    modules = [module for module in child.modules() if isinstance(module, ReluConvNorm)]
    buffers = [buffer for module in modules for buffer in (module.mean, module.variance)]
    sums = [torch.zeros_like(buffer) for buffer in buffers]
    num_batches = 0

    child.train()
    for batch in batches:
        for buffer in buffers:
            buffer.zero_()
        child(batch.input_ids, batch.attention_mask)
        # From 0, a forward pass moves each buffer to MOMENTUM times the statistics of the batch.
        for total, buffer in zip(sums, buffers, strict=True):
            total += buffer / MOMENTUM
        num_batches += 1
    child.eval()

    for total, buffer in zip(sums, buffers, strict=True):
        buffer.copy_(total / num_batches)


def recalibration_batches(
    data: DistillationData, seed: int, most: int = RECALIBRATION_BATCHES
) -> list[Batch]:
    """Return batches of the training text that `recalibrate` reads.

    Args:
        data: The run's distillation data.
        seed: Seed of the order of rows.
        most: Largest number of batches.
    """
    tokens = data.augmented_tokens
    batch_size = data.job.settings(AdabertSettings).batch_size
    plan = TrainPlan(tokens.lengths, batch_size, seed)
    count = min(most, plan.steps_per_epoch)
    return [collate(tokens, plan.rows(i), data.pad_id) for i in range(count)]

"""The teacher: plain fine-tuning of the full network on the labels."""

from __future__ import annotations

import torch

from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.training.loop import StepResult
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import Updater, autocast, set_training_mode


class TeacherStep:
    """One step of fine-tuning: all of the network, labels alone."""

    def __init__(
        self, model: ElasticEncoder, updater: Updater, *, precision: str, device: torch.device
    ) -> None:
        self.model = model
        self.updater = updater
        self.precision = precision
        self.device = device

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        set_training_mode(self.model)
        tokens = int(batch.attention_mask.sum())
        batch = batch.to(self.device)
        with autocast(self.precision, self.device):
            logits = self.model(batch, None).logits
        loss = label_loss(logits, batch.labels, batch.total)
        loss.backward()
        summed = loss.detach().reshape(1).clone()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.updater.apply(index, grads, summed)
        return StepResult(float(summed), tokens)

"""One step of plain fine-tuning: one network, one objective. The teacher and its students train so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.interface import ElasticOutput
from raycomp.training.hints import LABELS_ONLY, Objective
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import Updater, autocast, set_training_mode
from raycomp.training.step_cost import StepCost

Teacher = Callable[[Batch], ElasticOutput]
"""From a batch to the teacher's output; the caller has set eval mode."""


class FinetuneStep:
    """Trains one network, or one slice of it, on an objective (by default the labels only)."""

    def __init__(
        self,
        model: nn.Module,
        updater: Updater,
        *,
        precision: str,
        device: torch.device,
        arch: Architecture | Callable[[int], Architecture] | None = None,
        objective: Objective = LABELS_ONLY,
        teacher: Teacher | None = None,
        cost: StepCost | None = None,
    ) -> None:
        """Prepare the step.

        Args:
            model: Network that is trained, on `device`: an `ElasticEncoder`, or a module that is called
                like one.
            updater: Optimizer of its parameters.
            precision: "bf16" or "fp32".
            device: Device of the model and of the teacher.
            arch: Slice to train, or a function from the step to the slice; None is the whole network.
            objective: Weighted hints to minimise.
            teacher: Source of the outputs that the hints read.
            cost: FLOPs of both networks; None leaves FLOPs out of the figures of a step.

        Raises:
            ValueError: The objective needs a teacher, and none is given.
        """
        check_teacher(objective, teacher)
        self.model = model
        self.updater = updater
        self.precision = precision
        self.device = device
        self.arch = arch
        self.objective = objective
        self.teacher = teacher
        self.cost = cost

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        set_training_mode(self.model)
        tokens = int(batch.attention_mask.sum())
        batch = batch.to(self.device)
        target = run_teacher(self.teacher, batch, self.precision, self.device)
        arch = self._arch_at(index)

        with autocast(self.precision, self.device):
            output = self.model(
                batch,
                arch,
                hidden=self.objective.needs_hidden,
                attention=self.objective.needs_attention,
            )
        loss, _ = self.objective.losses(output, target, batch)
        # A slice of frozen layers lacks gradients (BERT-of-Theseus).
        if loss.requires_grad:
            loss.backward()

        # Summed with the gradients: every worker then reports the loss of the global batch.
        summed = loss.detach().reshape(1).clone()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.updater.apply(index, gradients, summed)
        flops = None
        if self.cost is not None:
            flops = self.cost.of_step(batch, [arch], has_teacher=self.teacher is not None)
        return StepResult(float(summed), tokens, flops=flops)

    def _arch_at(self, index: int) -> Architecture | None:
        """Return the slice that a step trains."""
        if callable(self.arch):
            return self.arch(index)
        return self.arch


@torch.no_grad()
def run_teacher(
    teacher: Teacher | None, batch: Batch, precision: str, device: torch.device
) -> ElasticOutput | None:
    """Return the teacher's output on a batch, without gradients; None without a teacher."""
    if teacher is None:
        return None
    with autocast(precision, device):
        return teacher(batch)


def check_teacher(objective: Objective, teacher: Teacher | None) -> None:
    """Raise ValueError if an objective needs a teacher and None is given."""
    if objective.needs_teacher and teacher is None:
        raise ValueError("the objective needs a teacher")

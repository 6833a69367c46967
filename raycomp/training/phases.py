"""Training in phases: each phase has its own objective, learning rate and part of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.training.finetune_step import FinetuneStep, Teacher
from raycomp.training.hints import LABELS_ONLY, Objective
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import LinearDecay, Updater
from raycomp.training.step_cost import StepCost


@dataclass(frozen=True)
class TrainingPhase:
    """A part of a training.

    Attributes:
        steps: Number of steps, at least 1.
        learning_rate: Largest learning rate.
        objective: What the network learns from.
        warmup: Part of the steps in which the learning rate rises from 0.
        decay: "linear" (to 0 at the end of the phase) or "constant".
        arch_at: From the step of the phase, from 0, to the part of the network that is trained. None
            trains all of it.
    """

    steps: int
    learning_rate: float
    objective: Objective = LABELS_ONLY
    warmup: float = 0.0
    decay: Literal["linear", "constant"] = "linear"
    arch_at: Callable[[int], Architecture] | None = None


def count_steps(epochs: float, steps_per_epoch: int) -> int:
    """Return the steps of a phase, at least 1."""
    return max(1, round(epochs * steps_per_epoch))


class PhaseSchedule:
    """Learning rate of each step of a training in phases.

    Attributes:
        starts: First step of each phase, then the number of all steps.
    """

    def __init__(self, phases: Sequence[TrainingPhase]) -> None:
        self._phases = list(phases)
        self.starts = [0]
        for phase in self._phases:
            self.starts.append(self.starts[-1] + phase.steps)

    def phase_at(self, step: int) -> int:
        """Return the number of the phase that a step belongs to, from 0."""
        return next(i for i, end in enumerate(self.starts[1:]) if step < end)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        index = self.phase_at(step)
        phase = self._phases[index]
        done = step - self.starts[index]

        # A constant rate also warms up, where the phase asks for it.
        is_warm = done >= max(1, round(phase.warmup * phase.steps))
        if phase.decay == "constant" and (is_warm or not phase.warmup):
            return phase.learning_rate
        return LinearDecay(phase.learning_rate, phase.warmup, (0, phase.steps))(done)


class PhasedStep:
    """A step of each phase: fine-tuning of the phase's part of the network, on its objective."""

    def __init__(
        self,
        phases: Sequence[TrainingPhase],
        model: nn.Module,
        updater: Updater,
        *,
        teacher_for: Callable[[Objective], Teacher | None],
        precision: str,
        device: torch.device,
        cost: StepCost | None = None,
    ) -> None:
        """Make the step of each phase.

        Args:
            phases: The phases, in order.
            model: Network that is trained, on `device`.
            updater: Optimizer of its parameters, with a `PhaseSchedule` of the same phases.
            teacher_for: From an objective to the teacher that it reads; None where it needs none.
            precision: "bf16" or "fp32".
            device: Device of the model and of the teacher.
            cost: FLOPs of both networks; None leaves FLOPs out of the figures of a step.
        """
        self._schedule = PhaseSchedule(phases)
        self._steps = [
            FinetuneStep(
                model,
                updater,
                precision=precision,
                device=device,
                arch=_shift(phase, first),
                objective=phase.objective,
                teacher=teacher_for(phase.objective),
                cost=cost,
            )
            for phase, first in zip(phases, self._schedule.starts, strict=False)
        ]

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        return self._steps[self._schedule.phase_at(index)](index, batch)


def _shift(phase: TrainingPhase, first: int) -> Callable[[int], Architecture] | None:
    """Return a phase's `arch_at` as a function of the step of the whole training."""
    arch_at = phase.arch_at
    if arch_at is None:
        return None
    return lambda index: arch_at(index - first)

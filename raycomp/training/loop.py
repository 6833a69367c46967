"""The one training loop. Everything that is trained is a step that this loop calls.

The loop knows neither Ray nor the method. The caller's `report` writes checkpoints, tables and progress
after each step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from raycomp.data.batches import Batch
from raycomp.errors import DivergedError
from raycomp.training.seeding import step_seed


@dataclass(frozen=True)
class StepResult:
    """Figures of one training step.

    Attributes:
        loss: Mean objective over the architectures and the global batch.
        tokens: Real tokens (without padding) that this rank put through the network.
        info: Further figures of the step, by column name of the table `steps`.
        flops: FLOPs of the step over all workers; None where the task does not count them.
    """

    loss: float
    tokens: int
    info: dict[str, float | str | bool] = field(default_factory=dict)
    flops: float | None = None


class TrainStep(Protocol):
    """One update: forward, backward, optimizer."""

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch; the same index and state give the same update.

        Args:
            index: Number of the step, from 0.
            batch: This worker's rows.
        """
        ...


Report = Callable[[int, StepResult, float], None]
"""Takes the number of a step, its figures, and its duration in seconds."""


def fit(
    step: TrainStep,
    batch_at: Callable[[int], Batch],
    start: int,
    stop: int,
    *,
    seed: int,
    report: Report,
) -> None:
    """Run the steps from `start` to `stop - 1`.

    The random state is a function of (seed, step): a run that resumes from a checkpoint draws the same
    dropout masks as one that was never interrupted.

    Args:
        step: Trains on one batch.
        batch_at: Function from a step to its batch.
        start: First step.
        stop: Number of steps of the whole training.
        seed: Seed of the random draws of this worker.
        report: Called after each step.

    Raises:
        DivergedError: A loss is NaN or infinite; it names the step.
    """
    for index in range(start, stop):
        began = time.perf_counter()
        # Before every step: dropout then does not depend on the steps that this process has run.
        seed_generators(step_seed(seed, index))
        result = step(index, batch_at(index))
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"The loss is {result.loss} at step {index}. Lower the learning rate, or use precision "
                "fp32."
            )
        report(index, result, time.perf_counter() - began)


def seed_generators(seed: int) -> None:
    """Seed torch's generators of all devices that this process uses.

    `torch.manual_seed` also records a stack trace for each kind of device that is not in use, which takes
    as long as several operations of a small network.
    """
    if torch.cuda.is_initialized():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)

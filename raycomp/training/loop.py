"""The one training loop. Everything that is trained is a step that this loop calls.

The loop knows neither Ray nor the method: what happens after a step (checkpoints, tables, progress)
is the injected `report`.
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


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        loss: mean objective over the architectures and the global batch.
        tokens: real tokens (padding left out) that this rank put through the network.
        info: further figures of the step, by column name of the table `steps`.
    """

    loss: float
    tokens: int
    info: dict[str, float | str | bool] = field(default_factory=dict)


class TrainStep(Protocol):
    """One update: forward, backward, optimizer."""

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on `batch` as step `index`; the same index and state give the same update."""
        ...


Report = Callable[[int, StepResult, float], None]


def fit(
    step: TrainStep,
    batch_at: Callable[[int], Batch],
    start: int,
    stop: int,
    *,
    seed: int,
    report: Report,
) -> None:
    """Run steps `start..stop-1`, calling `report(index, result, seconds)` after each.

    The random state is a function of (seed, step), not of what ran before: a run that goes on from
    a checkpoint draws the same dropout masks as one that was never interrupted.

    Raises:
        DivergedError: A loss is NaN or infinite; it names the step.
    """
    for index in range(start, stop):
        began = time.perf_counter()
        torch.manual_seed((seed * 1_000_003 + index) % 2**63)
        result = step(index, batch_at(index))
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"the loss is {result.loss} at step {index}; lower the learning rate or use "
                "precision fp32"
            )
        report(index, result, time.perf_counter() - began)

"""A stage: one thing that is trained, as every rank builds it from the job and the run's folder."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from raycomp.data.tokens import TokenSplit
from raycomp.training.loop import TrainStep
from raycomp.training.optimizers import JointUpdater, Updater


class TrainingTask(Protocol):
    """One thing to train, on one rank."""

    method: str
    step: TrainStep
    tokens: TokenSplit
    pad_id: int
    batch_size: int
    steps_per_epoch: int
    total: int

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def updater(self) -> Updater | JointUpdater:
        """What updates it."""
        ...

    def begin(
        self, attempt: str, rank: int, world: int, start: int, state: dict[str, Any] | None
    ) -> None:
        """Open an attempt at step `start`, with the checkpoint's state."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint must hold beside weights and optimizer."""
        ...

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        """Return rows of table `distribution`, if there is one."""
        ...

    def is_phase_start(self, step: int) -> bool:
        """Return whether a phase begins with a step: theta is kept after it."""
        ...

    def describe_failed_step(self, step: int) -> str:
        """Say, when the workers' sum of a step failed, which ranks did not come as far."""
        ...

    def finish(self) -> None:
        """Write the trained network; rank 0 alone calls this."""
        ...


class PlainTask:
    """The hooks of a stage that samples nothing: there is nothing to open, keep or tell."""

    _rank, _world = 0, 1

    def begin(
        self, attempt: str, rank: int, world: int, start: int, state: dict[str, Any] | None
    ) -> None:
        """Open nothing; remember who this is."""
        self._rank, self._world = rank, world

    def state(self, step: int) -> dict[str, Any]:
        """Return nothing beyond weights and optimizer."""
        return {}

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        """Return no rows."""
        return []

    def is_phase_start(self, step: int) -> bool:
        """Return whether it is the first step: there are no phases."""
        return step == 0

    def describe_failed_step(self, step: int) -> str:
        """Name the other ranks: nobody keeps account of who came how far."""
        others = [str(r) for r in range(self._world) if r != self._rank]
        return f"no answer came from {'one of ranks' if len(others) > 1 else 'rank'} {', '.join(others)}"

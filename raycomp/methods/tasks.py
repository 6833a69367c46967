"""A training task: one thing that is trained, as every rank builds it from the run's context.

The worker (`runtime/training/worker.py`) makes the task, restores a checkpoint into its model and
updater, calls `begin` once, runs `step` from the checkpoint's step to `num_steps`, and calls `finish` on
rank 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import nn

from raycomp.data.batches import TrainPlan
from raycomp.data.tokens import TokenSplit
from raycomp.methods.context import RunContext
from raycomp.training.loop import TrainStep
from raycomp.training.optimizers import AllReduce, BaseUpdater, JointUpdater
from raycomp.training.supernet_step import Sampler


class SharedSampler(Sampler, Protocol):
    """A sampler as a training task has it: in this process, or the client of an actor."""

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state before `step`, JSON-able."""
        ...

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return (variable, choice, probability) before `step`; empty if the distribution is fixed."""
        ...

    def missing(self, step: int) -> list[int]:
        """Return the ranks that are known not to have reached `step`; empty where nothing is known."""
        ...


class TrainingTask(ABC):
    """One thing to train, on one rank.

    A subclass sets the attributes in `build`.

    Attributes:
        method: Value of the column `method` in the table `steps`.
        context: Job, data and networks of the run on this rank.
        plan: Values that all ranks must agree on, as the method passed them to `Run.train`.
        device: Device to train on.
        reduce: Sum over the ranks, in place; None for a single rank.
        step: One update of the training loop. A task that needs a sampler makes it in `begin`.
        tokens: The training text.
        batch_size: Rows of a step, over all ranks.
        steps_per_epoch: Steps of one pass over the given training rows.
        num_steps: Steps of the whole training.
        model: Module that a checkpoint holds.
        updater: Optimizer state that a checkpoint holds.
    """

    method: str
    step: TrainStep
    tokens: TokenSplit
    batch_size: int
    steps_per_epoch: int
    num_steps: int
    model: nn.Module
    updater: BaseUpdater | JointUpdater

    def __init__(
        self,
        context: RunContext,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Build the task.

        Args:
            context: The run's context on this rank.
            plan: Values that all ranks must agree on, as the method passed them to `Run.train`.
            device: Device to train on.
            reduce: Sum over the ranks, in place; None for a single rank.
        """
        self.context = context
        self.plan = plan
        self.device = device
        self.reduce = reduce
        self._rank = 0
        self._world = 1
        self.build()

    def build(self) -> None:  # noqa: B027 - a task may have nothing to build
        """Make model, updater and data; the constructor calls this."""

    @property
    def data_seed(self) -> int:
        """Seed of the order of batches and of dropout."""
        return self.context.job.run.seed

    def _read_train_split(self, batch_size: int) -> None:
        """Set the attributes of a task that reads the training split as it is."""
        self.tokens = self.context.tokens("train")
        self.batch_size = batch_size
        self.steps_per_epoch = math.ceil(len(self.tokens) / batch_size)

    def batch_plan(self) -> TrainPlan:
        """Return the plan of the rows of each step."""
        return TrainPlan(self.tokens.lengths, self.batch_size, self.data_seed)

    def begin(self, rank: int, world: int, sampler: SharedSampler | None) -> None:
        """Start an attempt.

        Args:
            rank: This rank.
            world: Number of ranks.
            sampler: The sampler that all ranks share, where the plan names one; else None.
        """
        self._rank = rank
        self._world = world

    def checkpoint_state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint at `step` holds besides weights and optimizer, JSON-able."""
        return {}

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return (variable, choice, probability) before `step`; none where nothing is sampled."""
        return []

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        """Return the rows of table `distribution` before `step`."""
        run = self.context.run_dir.name
        return [
            {"run": run, "step": step, "variable": variable, "choice": choice, "probability": share}
            for variable, choice, share in self.probabilities(step)
        ]

    def is_phase_start(self, step: int) -> bool:
        """Return whether a phase begins with `step`: its distribution is recorded."""
        return step == 0

    def describe_failed_step(self, step: int) -> str:
        """Say which ranks did not reach a step, after its all-reduce failed."""
        others = [str(rank) for rank in range(self._world) if rank != self._rank]
        noun = "one of ranks" if len(others) > 1 else "rank"
        return f"{noun} {', '.join(others)} did not respond"

    @abstractmethod
    def finish(self) -> None:
        """Write the trained network; only rank 0 calls this."""

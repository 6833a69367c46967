"""P_alpha learns from rows that the weights do not see: several structures per update.

The weights fit the rows that they are trained on, in every structure. These rows therefore say little
about which structure generalises, as in other differentiable searches (DARTS, Liu et al. 2019, Section
2.3). One structure says little as well: its gradient is the mean over several drawn structures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raycomp.data.batches import Batch, TrainPlan, collate, padding, shard
from raycomp.data.tokens import TokenSplit
from raycomp.methods.adabert.efficiency import training_flops
from raycomp.methods.adabert.gumbel import Distribution, Sample
from raycomp.methods.adabert.student import Parent
from raycomp.training.optimizers import Updater, set_training_mode

StructureLoss = Callable[[Sample, Batch, int], Tensor]
"""Function of a sampled structure, a batch and the seed of its estimator: the loss that P_alpha learns
from, a scalar."""

HELD_OUT_STREAM = 1
"""Tells the draw of the held-out rows from other draws of the same seed."""


def split_rows(sources: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the training text: rows of the weights, and rows of P_alpha.

    A new sentence follows its source row. P_alpha reads given rows only.

    Args:
        sources: (rows,) given row that each row comes from; a given row is its own source.
        share: Part of the given rows that P_alpha reads, above 0 and below 1.
        seed: Seed of the draw.

    Returns:
        The row numbers of the weights, and those of P_alpha, both sorted.
    """
    num_given = int(sources.max()) + 1
    count = min(num_given - 1, max(1, round(share * num_given)))
    order = np.random.default_rng([seed, HELD_OUT_STREAM]).permutation(num_given)
    held_out = np.sort(order[:count])
    return np.flatnonzero(~np.isin(sources, held_out)), held_out


@dataclass(frozen=True)
class HeldOutBatches:
    """Batches of the rows of P_alpha, each divided among the structures of an update.

    Attributes:
        tokens: The training text.
        rows: Row numbers of P_alpha.
        batch_size: Rows of an update.
        structures: Structures of an update.
        seed: Seed of the order of rows.
        pad_id: Token that pads a batch.
        device: Device of the parent.
    """

    tokens: TokenSplit
    rows: np.ndarray
    batch_size: int
    structures: int
    seed: int
    pad_id: int
    device: torch.device

    @functools.cached_property
    def _plan(self) -> TrainPlan:
        return TrainPlan(self.tokens.lengths, self.batch_size, self.seed, only=self.rows)

    def parts(self, update: int) -> list[Batch]:
        """Return one batch for each structure of an update; fewer if the rows do not suffice."""
        rows = self._plan.rows(update)
        count = min(self.structures, len(rows))

        parts = [shard(rows, number, count) for number in range(count)]
        multiple = padding(self.device)
        return [collate(self.tokens, part, self.pad_id, multiple=multiple) for part in parts]


class HeldOutUpdates:
    """The updates of P_alpha before each step of the weights."""

    def __init__(
        self,
        parent: Parent,
        distribution: Distribution,
        updater: Updater,
        batches: HeldOutBatches,
        *,
        updates: int,
        estimator: str,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Set up the updates.

        Args:
            parent: Network with every candidate operation; its weights do not change here.
            distribution: P_alpha.
            updater: Optimizer of P_alpha, with the sum over the workers.
            batches: Rows of each update.
            updates: Updates for each step of the weights.
            estimator: Operations that run for the gradient, see `estimators.plan_edges`.
            rank: This worker. The workers share the structures of an update.
            world: Number of workers.
        """
        self.parent = parent
        self.distribution = distribution
        self.updater = updater
        self.batches = batches
        self.updates = updates
        self.estimator = estimator
        self.rank = rank
        self.world = world

    def run(self, step: int, temperature: float, seed: int, loss_of: StructureLoss) -> float:
        """Update P_alpha before a step of the weights.

        Args:
            step: Step of the weights since P_alpha began to learn.
            temperature: tau of Eq. 6.
            seed: Seed of the first draw; each structure adds one to it.
            loss_of: Loss of a structure on a batch.

        Returns:
            FLOPs of the updates over all workers.
        """
        flops = 0.0
        self.distribution.requires_grad_(True)
        self.parent.requires_grad_(False)
        set_training_mode(self.parent)

        for number in range(self.updates):
            update = step * self.updates + number
            parts = self.batches.parts(update)

            for i, part in enumerate(parts):
                # Every structure of the search has a draw of its own, also with several workers.
                draw = seed + update * self.batches.structures + i
                sample = self.distribution.sample(temperature, draw)
                flops += self._count_flops(sample, part)
                if i % self.world == self.rank:
                    loss = loss_of(sample, part.to(self.batches.device), draw)
                    (loss / len(parts)).backward()

            self.updater.apply(step, self._gradients())

        self.parent.requires_grad_(True)
        return flops

    def _count_flops(self, sample: Sample, batch: Batch) -> float:
        """Return the FLOPs of a structure's passes, which compute no gradient of weights."""
        return training_flops(self.parent, sample.structure, batch, self.estimator, trains_weights=False)

    def _gradients(self) -> list[Tensor]:
        """Return the gradients of P_alpha; zeros on a worker that had no structure."""
        gradients = []
        for parameter in self.distribution.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        return gradients

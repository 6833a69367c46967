"""Batches of token rows: length buckets for training, a token budget for evaluation.

The rows of a batch depend only on the step and the seed, so training can resume at any step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from raycomp.arithmetic import ceil_div
from raycomp.data.tokens import TokenSplit


@dataclass(frozen=True)
class Batch:
    """Padded rows of one worker.

    Attributes:
        input_ids: (batch, length) int64.
        attention_mask: (batch, length) bool, true for tokens and false for padding.
        token_type_ids: (batch, length) int64.
        labels: (batch,) int64 classes or float32 targets.
        index: (batch,) row numbers in the split.
        total: Number of rows of the global batch over all workers.
        total_tokens: Number of tokens of the global batch without padding.
        words: (words,) int64 sorted token ids of the global batch and of the padding, or None if this
            batch is the global batch.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor
    index: np.ndarray
    total: int
    total_tokens: int
    words: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        if device.type == "cpu":
            return self

        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("input_ids", "attention_mask", "token_type_ids", "labels", "words")
            if getattr(self, name) is not None
        }
        return replace(self, **moved)


def padding(device: torch.device) -> int:
    """Return the number whose multiples are the lengths of batches.

    The kernels of a GPU are fastest for multiples of eight. A CPU needs no rounding.
    """
    if device.type == "cuda":
        return 8
    return 1


def tokens_at_once(setting: int | None, device: torch.device) -> int:
    """Return the number of padded tokens of an evaluation batch.

    Without a setting, it is the number that was fastest in measurements on the kind of device.
    """
    if setting:
        return setting
    if device.type == "cuda":
        return 16384
    return 2048


def collate(
    tokens: TokenSplit,
    rows: np.ndarray,
    pad_id: int,
    *,
    multiple: int = 1,
    total: int | None = None,
    total_tokens: int | None = None,
    words: Tensor | None = None,
) -> Batch:
    """Return a padded batch of rows.

    Args:
        tokens: Tokens of the split.
        rows: (batch,) row numbers.
        pad_id: Token id of the padding.
        multiple: Number whose multiples are the lengths of batches.
        total: Number of rows of the global batch, by default the number of these rows.
        total_tokens: Number of tokens of the global batch, by default that of these rows.
        words: Token ids of the global batch, as in `Batch`.
    """
    lengths = tokens.row_lengths(np.asarray(rows))
    if total is None:
        total = len(rows)
    if total_tokens is None:
        total_tokens = int(lengths.sum())

    longest = ceil_div(int(lengths.max()), multiple) * multiple
    ids = np.full((len(rows), longest), pad_id, np.int64)
    types = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        start = tokens.offsets[row]
        end = tokens.offsets[row + 1]
        ids[i, : end - start] = tokens.input_ids[start:end]
        types[i, : end - start] = tokens.token_types[start:end]
    mask = np.arange(longest) < lengths[:, None]

    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(types),
        labels=torch.from_numpy(np.array(tokens.labels[rows])),
        index=np.asarray(rows),
        total=total,
        total_tokens=total_tokens,
        words=words,
    )


def words_of(tokens: TokenSplit, rows: np.ndarray, pad_id: int) -> Tensor:
    """Return the distinct token ids of rows and of the padding, sorted: (words,) int64."""
    texts = [tokens.input_ids[tokens.offsets[row] : tokens.offsets[row + 1]] for row in rows]
    return torch.from_numpy(np.unique(np.concatenate([*texts, [pad_id]])).astype(np.int64))


def smallest_batch(rows: int, batch_size: int) -> int:
    """Return the number of rows of the smallest batch of a `TrainPlan`."""
    return rows // ceil_div(rows, batch_size)


def mean_batch(rows: int, batch_size: int) -> float:
    """Return the mean number of rows in a batch of a `TrainPlan`."""
    return rows / ceil_div(rows, batch_size)


class TrainPlan:
    """Order in which the steps of a training use the rows.

    Each epoch uses each row once. It shuffles the rows, cuts them into pools of `pool` batches, and sorts
    each pool by length. It then cuts each pool into batches of nearly equal numbers of rows, at most
    `batch_size`, and shuffles the batches. Rows of similar length share a batch, which saves padding.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        pool: int = 50,
        only: np.ndarray | None = None,
        first: int = 0,
    ) -> None:
        """Create a plan.

        Args:
            lengths: (rows,) numbers of tokens.
            batch_size: Largest number of rows of a batch.
            seed: Seed of the order.
            pool: Batches that are sorted by length together.
            only: Row numbers that the training uses, by default all.
            first: Steps of earlier trainings on the same rows, which this one continues.
        """
        self._only = only
        self._first = first
        self._lengths = np.asarray(lengths if only is None else np.asarray(lengths)[only])
        self._seed = seed
        self._pool = pool
        self.steps_per_epoch = ceil_div(len(self._lengths), batch_size)
        self._epoch = lru_cache(maxsize=2)(self._order_epoch)

    def rows(self, step: int) -> np.ndarray:
        """Return the row numbers of the global batch of a step."""
        epoch, position = divmod(self._first + step, self.steps_per_epoch)
        rows = self._epoch(epoch)[position]
        return rows if self._only is None else self._only[rows]

    def _order_epoch(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))

        # The cuts are nearly equal, because some workers would get no rows of a very small last batch.
        cuts = np.linspace(0, len(order), self.steps_per_epoch + 1).round().astype(int)

        batches: list[np.ndarray] = []
        for first in range(0, self.steps_per_epoch, self._pool):
            bounds = cuts[first : first + self._pool + 1]
            pool = order[bounds[0] : bounds[-1]]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += np.split(pool, bounds[1:-1] - bounds[0])

        return [batches[i] for i in rng.permutation(len(batches))]


def shard(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """Return the rows of one worker: every `world`-th row of the batch.

    Neighbouring rows have similar lengths, which gives each worker a similar number of tokens.
    """
    return rows[rank::world]


def eval_batches(lengths: np.ndarray, max_tokens: int, multiple: int = 1) -> list[np.ndarray]:
    """Return the rows of each evaluation batch, sorted by length.

    Args:
        lengths: (rows,) numbers of tokens.
        max_tokens: Largest number of padded tokens of a batch. A longer row gets a separate batch.
        multiple: Number whose multiples are the lengths of batches.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for end in range(1, len(order)):
        # The rows are sorted by length, so the next row would set the length of the batch.
        length = ceil_div(int(lengths[order[end]]), multiple) * multiple
        if (end - start + 1) * length > max_tokens:
            batches.append(order[start:end])
            start = end

    if len(order):
        batches.append(order[start:])
    return batches

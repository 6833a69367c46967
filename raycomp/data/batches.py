"""Batches: length buckets for training, a token budget for evaluation. Pure functions of a step."""

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
        attention_mask: (batch, length) bool, true on real tokens.
        token_type_ids: (batch, length) int64.
        labels: (batch,) int64 classes or float32 targets.
        index: (batch,) row numbers in the split.
        total: rows of the global batch over all workers.
        total_tokens: real tokens of the global batch.
        words: (words,) int64, sorted ids in the global batch, the padding's among them; None where
            this batch is all of it.
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
        """Move the tensors."""
        if device.type == "cpu":
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("input_ids", "attention_mask", "token_type_ids", "labels", "words")
            if getattr(self, name) is not None
        }
        return replace(self, **moved)


def padding(device: torch.device) -> int:
    """Return what batches' lengths are rounded up to: a GPU's kernels want eights, a processor none."""
    return 8 if device.type == "cuda" else 1


def tokens_at_once(setting: int | None, device: torch.device) -> int:
    """Return the padded tokens of a batch of evaluation; without a setting, what measured fastest."""
    return setting or (16384 if device.type == "cuda" else 2048)


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
    """Pad rows to their longest, rounded up to `multiple`; the rest as in `Batch`."""
    lengths = tokens.lengths[rows]
    longest = ceil_div(int(lengths.max()), multiple) * multiple
    ids = np.full((len(rows), longest), pad_id, np.int64)
    types = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        start, end = tokens.offsets[row], tokens.offsets[row + 1]
        ids[i, : end - start] = tokens.input_ids[start:end]
        types[i, : end - start] = tokens.token_types[start:end]
    mask = np.arange(longest) < lengths[:, None]
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(types),
        torch.from_numpy(np.array(tokens.labels[rows])),
        np.asarray(rows),
        len(rows) if total is None else total,
        int(lengths.sum()) if total_tokens is None else total_tokens,
        words,
    )


def words_of(tokens: TokenSplit, rows: np.ndarray, pad_id: int) -> Tensor:
    """Return the ids in these rows and the padding's, sorted, each once: (words,) int64."""
    texts = [tokens.input_ids[tokens.offsets[row] : tokens.offsets[row + 1]] for row in rows]
    return torch.from_numpy(np.unique(np.concatenate([*texts, [pad_id]])).astype(np.int64))


def smallest_batch(rows: int, batch_size: int) -> int:
    """Return the rows of a TrainPlan's smallest batch."""
    return rows // ceil_div(rows, batch_size)


class TrainPlan:
    """Which rows each step trains on: every row once an epoch, similar lengths together.

    Each epoch shuffles the rows, cuts them into pools of `pool` batches, sorts each pool by length,
    cuts it into batches of nearly equal numbers of rows (at most `batch_size`), and shuffles those.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, pool: int = 50) -> None:
        self._lengths = np.asarray(lengths)
        self._seed = seed
        self._pool = pool
        self.steps_per_epoch = ceil_div(len(lengths), batch_size)
        self._epoch = lru_cache(maxsize=2)(self._make)

    def rows(self, step: int) -> np.ndarray:
        """Return the row numbers of the global batch of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[position]

    def _make(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._lengths))
        # Nearly equal cuts: a last batch of a few rows would leave workers without any.
        cuts = np.linspace(0, len(order), self.steps_per_epoch + 1).round().astype(int)
        batches: list[np.ndarray] = []
        for first in range(0, self.steps_per_epoch, self._pool):
            bounds = cuts[first : first + self._pool + 1]
            pool = order[bounds[0] : bounds[-1]]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += np.split(pool, bounds[1:-1] - bounds[0])
        return [batches[i] for i in rng.permutation(len(batches))]


def shard(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """Return one worker's share: every `world`-th row, so that shares are alike in length."""
    return rows[rank::world]


def eval_batches(lengths: np.ndarray, max_tokens: int, multiple: int = 1) -> list[np.ndarray]:
    """Return all rows, sorted by length, cut so that a padded batch holds at most `max_tokens`.

    A row longer than that is a batch of its own. Lengths are rounded up to `multiple`.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for end in range(1, len(order) + 1):
        widest = int(lengths[order[end]]) if end < len(order) else 0
        if end == len(order) or (end - start + 1) * (ceil_div(widest, multiple) * multiple) > max_tokens:
            batches.append(order[start:end])
            start = end
    return batches

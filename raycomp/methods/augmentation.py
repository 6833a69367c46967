"""Augmented text of a run: new sentences of the training split, written in parallel tasks.

Methods that use it name the section "augment" in their `shared_sections`. All of them read the same text.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from raycomp.data.augment import Candidates, MaskedCandidates, NeighbourCandidates, augment_rows
from raycomp.data.tasks import Split
from raycomp.data.tokens import TokenSplit
from raycomp.errors import UserError
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.preparation_costs import record_preparation
from raycomp.storage.files import write_json

BLOCK = 2048
"""Rows that one task reads or writes."""


class AugmentedData(RunContext):
    """A run's context with augmented text."""

    @classmethod
    def of(cls, context: RunContext) -> Self:
        """Return the data of a context; the data of the last context is kept in memory."""
        return cast(Self, _data_of(cast(Hashable, cls), context))

    @functools.cached_property
    def augmented(self) -> Split:
        """The training split, then its new sentences, each with the label of its source row."""
        train = self.task.train
        rows = self._new_rows()

        labels = np.concatenate([train.labels, train.labels[[source for source, _ in rows]]])
        first = [*train.text_a, *(texts[0] for _, texts in rows)]
        second = None
        if train.text_b is not None:
            second = [*train.text_b, *(texts[1] for _, texts in rows)]
        return Split("augmented", first, second, labels.astype(train.labels.dtype))

    @functools.cached_property
    def sources(self) -> np.ndarray:
        """Row of the training split that each row of the augmented split comes from, (rows,)."""
        new_sources = np.array([source for source, _ in self._new_rows()], dtype=np.int64)
        return np.concatenate([np.arange(len(self.tokens("train"))), new_sources])

    def _new_rows(self) -> list[Any]:
        """Return the new sentences: (source row, texts)."""
        return [row for path in self.augmented_files() for row in json.loads(path.read_text())]

    def augmented_files(self) -> list[Path]:
        """Return the files of new sentences, in order; none where augmentation is off."""
        if not self.job.augment.copies:
            return []
        return self.block_files("augmented", len(self.tokens("train")), "json")

    def block_files(self, kind: str, rows: int, suffix: str) -> list[Path]:
        """Return the file of each block of rows.

        Args:
            kind: "augmented", "features" or "answers".
            rows: Number of rows.
            suffix: "json" or "safetensors".
        """
        return [self.layout.distillation_part(kind, i, suffix) for i in range(math.ceil(rows / BLOCK))]

    @functools.cached_property
    def augmented_tokens(self) -> TokenSplit:
        """The augmented split, tokenised."""
        return self.tokenised("augmented", lambda: self.augmented)


@functools.lru_cache(maxsize=2)
def _data_of(cls: Any, context: RunContext) -> AugmentedData:
    return cls(context.job, context.run_dir, method=context.method)


def augment_training_text(run: Run, data: AugmentedData) -> float:
    """Write the new sentences, unless they are there; return the seconds that this took.

    Args:
        run: The method's handle.
        data: The augmented data to write.

    Raises:
        UserError: A task failed; finished blocks stay.
    """
    if all(path.exists() for path in data.augmented_files()):
        return 0.0
    began = time.perf_counter()
    write_missing_files(run, data, "augmentation", write_augmented, data.augmented_files(), sources=True)
    data.__dict__.pop("augmented", None)

    seconds = time.perf_counter() - began
    tokens = _count_masked_tokens(data)
    flops = data.token_flops() * tokens
    record_preparation(run, "augmentation", flops=flops, seconds=seconds, tokens=tokens)
    return seconds


def _count_masked_tokens(data: AugmentedData) -> int:
    """Return about how many tokens a masked language model reads; 0 where none fills the masks.

    Each text is read once for each of its words, of which it has at most as many as tokens. A read has
    the text with a mask and the text itself (`MaskedCandidates`), as far as the model's positions reach.
    The texts of a pair are read separately.
    """
    from raycomp.encoder.pretrained import load_masked_language_model

    source = data.job.model
    if data.job.augment.method == "neighbours":
        return 0
    if load_masked_language_model(source.name, source.revision, source.trust_remote_code) is None:
        return 0
    lengths = text_lengths(data.tokens("train"))
    return int((lengths * np.minimum(2 * lengths, data.config.max_positions)).sum())


def text_lengths(tokens: TokenSplit) -> np.ndarray:
    """Return the number of tokens of the first and of the second text of each row, (2, rows)."""
    counted = np.concatenate([[0], np.cumsum(tokens.token_types, dtype=np.int64)])
    second = np.diff(counted[tokens.offsets])
    return np.stack([tokens.lengths - second, second])


def write_missing_files(
    run: Run,
    data: AugmentedData,
    title: str,
    function: Callable[..., None],
    files: list[Path],
    leading: tuple[Any, ...] = (),
    **options: Any,
) -> None:
    """Call `function(context, *leading, index, path)` for each file that is missing; see `Run.tasks`."""
    missing = [i for i, path in enumerate(files) if not path.exists()]
    calls = [(*leading, i, str(files[i].relative_to(data.run_dir))) for i in missing]
    num_done = len(files) - len(missing)

    with run.bar(title) as bar:
        run.tasks(
            function,
            calls,
            lambda done, total, info: bar(num_done + done, len(files), info),
            **options,
        )


def write_augmented(context: RunContext, index: int, path: str) -> None:
    """Write the new sentences of one block of training rows."""
    data = AugmentedData.of(context)
    settings = data.job.augment
    train = data.task.train
    columns = [train.text_a] if train.text_b is None else [train.text_a, train.text_b]
    texts = list(zip(*columns, strict=True))

    first = index * BLOCK
    rows = [(i, tuple(texts[i])) for i in range(first, min(first + BLOCK, len(train)))]
    new_rows = augment_rows(
        rows,
        _load_candidates(data),
        copies=settings.copies,
        share=settings.probability,
        seed=data.job.run.seed,
        consistent_pairs=settings.consistent_pairs and train.text_b is not None,
    )
    write_json(data.run_dir / path, new_rows)


@functools.lru_cache(maxsize=1)
def _load_candidates(data: AugmentedData) -> Candidates:
    """Return the source of words that may replace a word."""
    from raycomp.encoder.pretrained import load_masked_language_model

    settings = data.job.augment
    table = data.load().network.embeddings.word.weight.detach()
    neighbours = NeighbourCandidates(table, data.tokenizer, settings.candidates)
    if settings.method == "neighbours":
        return neighbours

    source = data.job.model
    model = load_masked_language_model(source.name, source.revision, source.trust_remote_code)
    if model is None:
        if settings.method == "mlm":
            raise UserError(_missing_mlm_message(source.name))
        return neighbours
    return MaskedCandidates(
        model, data.tokenizer, settings.candidates, neighbours, data.config.max_positions
    )


def find_augmentation_problems(context: RunContext) -> list[str]:
    """Return a message where the job augments with a masked-language model that the model lacks."""
    from raycomp.encoder.pretrained import load_masked_language_model

    settings = context.job.augment
    source = context.job.model
    if not settings.copies or settings.method != "mlm":
        return []
    if load_masked_language_model(source.name, source.revision, source.trust_remote_code) is None:
        return [_missing_mlm_message(source.name)]
    return []


def _missing_mlm_message(model: str) -> str:
    """Return the message for a model that cannot fill masks.

    Args:
        model: Name of the model.
    """
    return (
        f"augment.method is 'mlm', but {model} lacks a masked-language-model head. Use 'neighbours', or "
        "'auto'."
    )

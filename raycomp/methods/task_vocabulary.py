"""The vocabulary of a run's task: tokens, tokenizer and data of networks whose word table is cut.

Inside a run, all networks read ids of the full vocabulary. A network with a cut table is exported with a
tokenizer of its own, whose ids are the positions of its tokens in `RunContext.vocabulary`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.data.tokens import TokenSplit, fingerprint
from raycomp.encoder.architecture import WordTable
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.word_tables import TableParts, find_directions
from raycomp.methods.context import RunContext
from raycomp.storage.files import read_json
from raycomp.storage.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from raycomp.data.tasks import Split


class CutContext(RunContext):
    """A run's context in the ids of the cut vocabulary: tokenizer, tokens and padding are its own."""

    _full: RunContext

    @classmethod
    def of(cls, context: RunContext) -> CutContext:
        """Return the context of cut tables; what else is loaded is shared with the full one."""
        # Known before the copy: a cut context cannot choose the vocabulary from its own tokens.
        _token_ids(context)
        cut = cls.__new__(cls)
        cut.__dict__.update(context.__dict__)
        cut.__dict__.pop("tokenizer", None)
        cut._full = context
        return cut

    @property
    def cut(self) -> RunContext:
        """This context."""
        return self

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The run's tokenizer with the tokens of the task only."""
        from raycomp.encoder.vocabulary import cut_tokenizer

        return cut_tokenizer(self._full.tokenizer, _token_ids(self))

    @property
    def tokenizer_mark(self) -> str:
        """Hash of the tokenizer."""
        return fingerprint(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return int(np.searchsorted(_token_ids(self), self._full.pad_id))

    def tokenised(self, name: str, load_texts: Callable[[], Split]) -> TokenSplit:
        """Return a split as tokens of the cut vocabulary; see `RunContext.tokenised`."""
        return super().tokenised(f"{name}.cut", load_texts)


@dataclass(frozen=True)
class VocabularyFigures:
    """A held-out text before and after the cut of the vocabulary.

    Attributes:
        tokens: Number of its tokens.
        full_tokens: Number of tokens of the full vocabulary.
        same_texts: Share of the texts with the same tokens as before.
        mean_before: Mean number of tokens of a text with the full vocabulary.
        mean_after: Mean number of tokens of a text with the cut one.
    """

    tokens: int
    full_tokens: int
    same_texts: float
    mean_before: float
    mean_after: float


def find_vocabulary(context: RunContext) -> np.ndarray | None:
    """Return the ids of the task's tokens, from the run directory if it has them.

    Args:
        context: The run's context.

    Returns:
        (tokens,) int64, ascending; None where the job does not cut the vocabulary.
    """
    settings = context.job.embeddings
    if "task" not in settings.vocabulary:
        return None
    path = context.layout.vocabulary
    if path.exists():
        return np.array(read_json(path)["token_ids"], np.int64)

    from raycomp.encoder.vocabulary import choose_tokens

    return choose_tokens(context.tokenizer, _token_counts(context), settings.coverage)


def measure_vocabulary(context: RunContext) -> VocabularyFigures:
    """Compare the texts of the selection split before and after the cut of the vocabulary."""
    before = context.tokens("selection")
    after = in_full_ids(context, context.cut.tokens("selection"))
    pairs = zip(_rows(before), _rows(after), strict=True)
    return VocabularyFigures(
        tokens=len(_token_ids(context)),
        full_tokens=context.config.vocab_size,
        same_texts=float(np.mean([np.array_equal(a, b) for a, b in pairs])),
        mean_before=float(before.lengths.mean()),
        mean_after=float(after.lengths.mean()),
    )


def _rows(tokens: TokenSplit) -> list[np.ndarray]:
    return np.split(tokens.input_ids, tokens.offsets[1:-1])


def in_full_ids(context: RunContext, tokens: TokenSplit) -> TokenSplit:
    """Return tokens of the cut vocabulary in ids of the full one."""
    return replace(tokens, input_ids=_token_ids(context)[tokens.input_ids].astype(np.int32))


def tokens_of(context: RunContext, split: str, table: WordTable) -> TokenSplit:
    """Return a split as a network with a word table reads it, in ids of the full vocabulary."""
    return in_full_ids(context, context.cut.tokens(split)) if table.is_cut else context.tokens(split)


def reading_cut_ids(
    context: RunContext, table: WordTable, forward: Callable[[Batch], Tensor]
) -> Callable[[Batch], Tensor]:
    """Return a forward function for the ids that a network with a word table reads when it is deployed.

    Args:
        context: The run's context.
        table: The word table.
        forward: Function of a batch with ids of the full vocabulary.
    """
    if not table.is_cut:
        return forward
    token_ids = torch.from_numpy(_token_ids(context))

    def forward_cut(batch: Batch) -> Tensor:
        return forward(replace(batch, input_ids=token_ids.to(batch.input_ids.device)[batch.input_ids]))

    return forward_cut


def prepare_tables(context: RunContext) -> None:
    """Write the tokens of the cut vocabulary and the directions of tables with a rank.

    Args:
        context: The run's context on the driver, with a trained super-network.
    """
    if "task" in context.job.embeddings.vocabulary:
        for split in ("train", "selection"):
            context.cut.tokens(split)
    path = context.files.table_directions
    if any(isinstance(rank, int) for rank in context.job.embeddings.rank) and not path.exists():
        weight = context.network(context.files.supernet_network).embeddings.word.weight
        counts = torch.from_numpy(_token_counts(context))
        save_tensors(path, {"directions": find_directions(weight, counts)})


def add_table_parts(context: RunContext, model: ElasticEncoder) -> None:
    """Tell a super-network what the word tables of its sub-networks are made of."""
    token_ids = context.vocabulary
    path = context.files.table_directions
    model.table_parts = TableParts(
        None if token_ids is None else torch.from_numpy(token_ids),
        load_tensors(path)["directions"] if path.exists() else None,
    )


def _token_counts(context: RunContext) -> np.ndarray:
    """Return how often each token of the full vocabulary occurs in the training text: (vocabulary,)."""
    return np.bincount(context.tokens("train").input_ids, minlength=context.config.vocab_size)


def _token_ids(context: RunContext) -> np.ndarray:
    if context.vocabulary is None:
        raise ValueError("the job does not cut the vocabulary")
    return context.vocabulary

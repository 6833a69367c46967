"""The part of the overview about tokens: lengths, texts that are cut, and unknown tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycomp.data.overview import Overview, OverviewRow
from raycomp.data.tasks import Split
from raycomp.data.tokens import BLOCK, TokenSplit
from raycomp.data.whole_words import measure_replaceable

# Cut texts whose full length is measured. If there are more, a sample of them is measured.
MAX_MEASURED = 2000

# Share of cut texts without a warning, and share of texts that the proposed length keeps whole.
CUT_WARNING = 0.01
KEPT_SHARE = 0.99

# Share of unknown tokens without a warning.
UNKNOWN_WARNING = 0.05

# Share of the letters that word replacement should be able to change.
MIN_REPLACEABLE = 0.5

# The proposed length is a multiple of this number.
STEP = 8


@dataclass(frozen=True)
class TokenFigures:
    """Figures of the tokens of one split.

    Attributes:
        median: Median number of tokens of a whole text.
        longest: Largest number of tokens of a whole text that was measured.
        cut: Share of the texts that are longer than the limit.
        enough: Length that keeps KEPT_SHARE of the texts whole.
        unknown: Share of unknown tokens among all tokens without special ones.
    """

    median: float
    longest: int
    cut: float
    enough: int
    unknown: float


def measure_tokens(split: Split, tokens: TokenSplit, tokenizer: Any, limit: int) -> TokenFigures:
    """Measure how many texts of a split are cut, and how many of its tokens are unknown.

    Args:
        split: Texts of the split.
        tokens: Its tokens, cut to the limit.
        tokenizer: Fast tokenizer of transformers, with truncation off.
        limit: Largest number of tokens of a row.
    """
    lengths = np.array(tokens.lengths)
    # Only a text with as many tokens as the limit can have been cut.
    full_rows = np.flatnonzero(lengths >= limit)
    if len(full_rows):
        sample = full_rows
        if len(full_rows) > MAX_MEASURED:
            rng = np.random.default_rng(0)
            sample = np.sort(rng.choice(full_rows, MAX_MEASURED, replace=False))
        measured = _full_lengths(split, sample, tokenizer)
        lengths[full_rows] = np.resize(measured, len(full_rows))

    return TokenFigures(
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        cut=float((lengths > limit).mean()),
        enough=int(np.quantile(lengths, KEPT_SHARE, method="higher")),
        unknown=_unknown_share(tokens.input_ids, tokenizer),
    )


def _full_lengths(split: Split, rows: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Return the number of tokens of whole texts: (rows,)."""
    lengths: list[int] = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].tolist()
        second = None
        if split.text_b is not None:
            second = [split.text_b[row] for row in block]
        encoded = tokenizer(
            [split.text_a[row] for row in block],
            second,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        lengths += map(len, encoded["input_ids"])
    return np.array(lengths)


def _unknown_share(ids: np.ndarray, tokenizer: Any) -> float:
    """Return the share of unknown tokens among all tokens without special ones."""
    unknown = tokenizer.unk_token_id
    special = [token for token in tokenizer.all_special_ids if token != unknown]
    is_word = ~np.isin(ids, special)
    num_words = int(is_word.sum())
    if unknown is None or num_words == 0:
        return 0.0
    return float((ids == unknown).sum() / num_words)


def describe_tokens(figures: Mapping[str, TokenFigures], max_length: int, max_positions: int) -> Overview:
    """Return text lengths, the share of cut texts, and the share of unknown tokens.

    Args:
        figures: Figures of each split; that of train is the first.
        max_length: `task.max_length`.
        max_positions: Largest number of tokens that the model reads.
    """
    limit = min(max_length, max_positions)
    train = next(iter(figures.values()))
    rows = [
        OverviewRow("length", f"median {train.median:.0f}, longest {train.longest:,} tokens in train"),
        OverviewRow("cut texts", f"{_list_shares(figures, 'cut')} longer than {limit} tokens"),
        OverviewRow("unknown", f"{_list_shares(figures, 'unknown')} of the tokens"),
    ]
    warnings = []
    if max(figure.cut for figure in figures.values()) >= CUT_WARNING:
        warnings.append(_cut_warning(figures, max_length, max_positions))
    if max(figure.unknown for figure in figures.values()) >= UNKNOWN_WARNING:
        warnings.append(
            f"Unknown tokens: {_list_shares(figures, 'unknown')}. The model cannot tell these words "
            "apart. Check that the texts have the language of the model, and that the tokenizer belongs "
            "to it."
        )
    values = {
        "length": {name: {"median": f.median, "longest": f.longest} for name, f in figures.items()},
        "cut": {name: f.cut for name, f in figures.items()},
        "unknown": {name: f.unknown for name, f in figures.items()},
    }
    return Overview(tuple(rows), tuple(warnings), (), values)


def describe_augmentation(train: Split, tokenizer: Any, candidates: int) -> Overview:
    """Return which share of the training text word replacement can change, and a note if it is small.

    Args:
        train: Training rows.
        tokenizer: Tokenizer of the model.
        candidates: `augment.candidates`.
    """
    texts = [*train.text_a[:MAX_MEASURED], *(train.text_b or [])[:MAX_MEASURED]]
    share = measure_replaceable(texts, tokenizer, candidates)
    row = OverviewRow("augmentation", f"words with {100 * share:.0f}% of the letters can be replaced")
    notes: tuple[str, ...] = ()
    if share < MIN_REPLACEABLE:
        notes = (
            f"Word replacement leaves {100 * (1 - share):.0f}% of the training text as it is: it is in a "
            "script without blanks between words, or the vocabulary of the model has fewer than "
            f"{candidates} whole words of its script. AdaBERT gets fewer new texts than augment.copies.",
        )
    return Overview((row,), (), notes, {"replaceable": share})


def _cut_warning(figures: Mapping[str, TokenFigures], max_length: int, max_positions: int) -> str:
    limit = min(max_length, max_positions)
    train = next(iter(figures.values()))
    message = (
        f"Texts longer than {limit} tokens are cut: {_list_shares(figures, 'cut')}. In train, the median "
        f"is {train.median:.0f} and the longest text has {train.longest:,} tokens."
    )
    if limit >= max_positions:
        return f"{message} The model reads at most {max_positions} tokens."

    enough = max(figure.enough for figure in figures.values())
    proposed = min(-(-enough // STEP) * STEP, max_positions)
    return (
        f"{message} task.max_length = {proposed} keeps {100 * KEPT_SHARE:.0f}% of them whole; the model "
        f"allows up to {max_positions}."
    )


def _list_shares(figures: Mapping[str, TokenFigures], name: str) -> str:
    return ", ".join(f"{split} {100 * getattr(figure, name):.1f}%" for split, figure in figures.items())

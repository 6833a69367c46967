"""Word replacement as TinyBERT's: more sentences of the same label for the teacher to speak about.

Each alphabetic word that is no stop word is replaced, with probability p, by one of its candidates:
words that a masked language model puts in its place, or its nearest neighbours in a word-embedding
table. Neighbours can turn the meaning over (good, bad); the teacher then speaks of the new sentence.
What makes two texts a pair is often the words that they share: these can be replaced alike in both.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raycomp.errors import UserError

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_BLOCK = 2048


@dataclass(frozen=True)
class Word:
    """One replaceable word: where it stands, and what it is in lower case."""

    start: int
    end: int
    text: str


def replaceable(text: str) -> list[Word]:
    """Return the alphabetic words of a text that are no stop words, in order."""
    found = [Word(m.start(), m.end(), m.group().lower()) for m in _WORD.finditer(text)]
    return [w for w in found if w.text.isalpha() and w.text not in _stop_words()]


@functools.cache
def _stop_words() -> frozenset[str]:
    # Imported here: a second in every training worker, which augments nothing.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS


class Candidates(Protocol):
    """Where replacements come from."""

    def __call__(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """Return, for each text and each of its replaceable words, replacements, best first."""
        ...


class NeighbourCandidates:
    """Nearest whole words of an embedding table by cosine, after the mean is taken off."""

    def __init__(self, table: Tensor, tokenizer: Any, count: int) -> None:
        """Take a table (vocabulary, hidden) and its tokenizer; offer `count` words each."""
        self._tokenizer = tokenizer
        self._count = count
        self._ids, self._words = whole_words(tokenizer)
        if len(self._words) <= count:
            raise UserError(
                f"The tokenizer has only {len(self._words)} whole words, too few for augmentation with "
                f"{count} candidates. Use augment.copies = 0."
            )
        centred = table.float() - table.float().mean(0)
        self._table = torch.nn.functional.normalize(centred, dim=1)
        self._choices = self._table[torch.tensor(self._ids)]
        self._known: dict[str, list[str]] = {}

    def __call__(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """Return neighbours; the same whatever stands around the word."""
        words = [[w.text for w in replaceable(t)] for t in texts]
        self._learn(sorted({w for row in words for w in row} - self._known.keys()))
        return [[self._known[w] for w in row] for row in words]

    def _learn(self, words: list[str]) -> None:
        for first in range(0, len(words), _BLOCK):
            block = words[first : first + _BLOCK]
            pieces = [self._tokenizer(" " + w, add_special_tokens=False)["input_ids"] for w in block]
            vectors = torch.stack(
                [self._table[torch.tensor(p)].mean(0) if p else self._table[0] * 0 for p in pieces]
            )
            near = (vectors @ self._choices.T).topk(self._count + 1).indices.tolist()
            for word, row in zip(block, near, strict=True):
                others = [self._words[i] for i in row if self._words[i] != word]
                self._known[word] = others[: self._count]


class MaskedCandidates:
    """What a masked language model puts in a word's place, given "masked text [SEP] original".

    A word of several pieces cannot be filled by one mask: it takes neighbours.
    """

    def __init__(
        self, model: Any, tokenizer: Any, count: int, neighbours: NeighbourCandidates, limit: int
    ) -> None:
        """Take a masked language model of transformers, and how long a pair may be, in tokens."""
        self._model, self._tokenizer = model.eval(), tokenizer
        self._count, self._neighbours, self._limit = count, neighbours, limit
        self._ids, self._words = whole_words(tokenizer)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """Return the model's words where a word is one piece, else neighbours."""
        near = self._neighbours(texts)
        return [self._one(text, other) if other else [] for text, other in zip(texts, near, strict=True)]

    def _one(self, text: str, near: list[list[str]]) -> list[list[str]]:
        mask, device = self._tokenizer.mask_token, self._model.device
        words, found = replaceable(text), list(near)
        single = [
            i
            for i, w in enumerate(words)
            if len(self._tokenizer(" " + w.text, add_special_tokens=False)["input_ids"]) == 1
        ]
        if not single:
            return found
        hidden = [text[: words[i].start] + mask + text[words[i].end :] for i in single]
        batch = self._tokenizer(
            hidden,
            [text] * len(hidden),
            truncation="longest_first",
            max_length=self._limit,
            padding=True,
            return_tensors="pt",
        ).to(device)
        logits = self._model(**batch).logits.float().cpu()[:, :, torch.tensor(self._ids)]
        masked = batch["input_ids"].cpu() == self._tokenizer.mask_token_id
        for row, i in enumerate(single):
            where = masked[row].nonzero().flatten().tolist()
            if not where:
                continue  # cut away with the end of a long text
            best = logits[row, where[0]].topk(min(self._count + 1, len(self._ids))).indices.tolist()
            others = [self._words[n] for n in best if self._words[n] != words[i].text]
            found[i] = others[: self._count]
        return found


def whole_words(tokenizer: Any) -> tuple[list[int], list[str]]:
    """Return ids and lower-case text of the vocabulary's whole, alphabetic words, by id."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    marked = any(t.startswith(("Ġ", "▁")) for t in vocabulary)
    special = set(tokenizer.all_special_tokens)
    found: dict[str, int] = {}
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        if token in special or (marked and token[0] not in "Ġ▁"):
            continue
        word = (token[1:] if marked else token).lower()
        if len(word) > 1 and word.isascii() and word.isalpha():
            found.setdefault(word, number)
    return list(found.values()), list(found)


def replace(
    text: str,
    candidates: list[list[str]],
    share: float,
    rng: np.random.Generator,
    agreed: dict[str, str | None] | None = None,
) -> str:
    """Return a text whose replaceable words are exchanged with probability `share`.

    Args:
        text: the text.
        candidates: for each of its replaceable words.
        share: probability of a word's replacement.
        rng: draws twice a word.
        agreed: word -> what takes its place everywhere, None if nothing; words that it lacks are added.
            Absent: each place is drawn on its own.
    """
    parts: list[str] = []
    last = 0
    for word, offered in zip(replaceable(text), candidates, strict=True):
        chance, pick = rng.random(), rng.random()
        drawn = offered[int(pick * len(offered))] if offered and chance < share else None
        new = drawn if agreed is None else agreed.setdefault(word.text, drawn)
        if new is None:
            continue
        old = text[word.start : word.end]
        if old.isupper() and len(old) > 1:
            new = new.upper()
        elif old[0].isupper():
            new = new.capitalize()
        parts += [text[last : word.start], new]
        last = word.end
    return "".join([*parts, text[last:]])


def augment(
    rows: Sequence[tuple[int, tuple[str, ...]]],
    candidates: Candidates,
    *,
    copies: int,
    share: float,
    seed: int,
    consistent_pairs: bool = False,
) -> list[tuple[int, tuple[str, ...]]]:
    """Return new texts of rows, each with the number of the row that it comes from.

    A copy that equals its row or an earlier copy is left out. What a row gives depends on the seed
    and the row alone, not on which rows are worked on together.

    Args:
        rows: (row number, one or two texts).
        candidates: where replacements come from.
        copies: at most so many new texts a row.
        share: probability of a word's replacement.
        seed: of the run.
        consistent_pairs: Whether a word that occurs again in the texts of a row is replaced by the
            same word everywhere.
    """
    offered = [candidates([t[side] for _, t in rows]) for side in range(len(rows[0][1]))] if rows else []
    found: list[tuple[int, tuple[str, ...]]] = []
    for i, (number, texts) in enumerate(rows):
        rng = np.random.default_rng([seed, number])
        seen = {texts}
        for _ in range(copies):
            agreed: dict[str, str | None] | None = {} if consistent_pairs else None
            new = tuple(replace(t, offered[side][i], share, rng, agreed) for side, t in enumerate(texts))
            if new not in seen:
                seen.add(new)
                found.append((number, new))
    return found

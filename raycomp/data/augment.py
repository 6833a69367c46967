"""Augmentation by word replacement (TinyBERT, Alg. 1): more sentences for the teacher to label.

Each alphabetic word that is not a stop word is replaced, with a given probability, by one of its
candidates: predictions of a masked language model at its place, or nearest neighbours in a
word-embedding table. A neighbour can reverse the meaning (good, bad). That is harmless, because the
teacher labels the new sentence. The words that two texts share often decide the label of a pair. They
can be replaced by the same word in both texts. A word is only replaced by words of its own script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raycomp.data.whole_words import list_whole_words
from raycomp.data.words import Word, find_replaceable_words, find_script
from raycomp.errors import UserError

# Words whose neighbours are computed in one matrix product.
_BLOCK = 2048


class Candidates(Protocol):
    """Source of replacements."""

    def __call__(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """Return the replacements of each replaceable word of each text, best first."""
        ...


class NeighbourCandidates:
    """Nearest whole words in an embedding table, by cosine after the mean is subtracted.

    Args:
        table: Word embeddings, (vocabulary, hidden).
        tokenizer: Tokenizer of the embeddings.
        count: Number of candidates of each word.

    Raises:
        UserError: The vocabulary has too few whole words.
    """

    def __init__(self, table: Tensor, tokenizer: Any, count: int) -> None:
        self._tokenizer = tokenizer
        self._count = count
        self.vocabulary = {
            script: words
            for script, words in list_whole_words(tokenizer).items()
            if len(words.texts) > count
        }
        if not self.vocabulary:
            raise UserError(
                f"The tokenizer has too few whole words for augmentation with {count} candidates. Lower "
                "augment.candidates, or set augment.copies = 0 to leave augmentation out."
            )

        centred = table.float() - table.float().mean(0)
        self._table = torch.nn.functional.normalize(centred, dim=1)
        self._choices = {
            script: self._table[torch.tensor(words.ids)] for script, words in self.vocabulary.items()
        }
        self._neighbours: dict[str, list[str]] = {}

    def __call__(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """Return the neighbours of each word. They do not depend on the words around it."""
        words = [[word.text for word in find_replaceable_words(text)] for text in texts]
        new_words = {word for row in words for word in row} - self._neighbours.keys()
        self._add_neighbours(sorted(new_words))
        return [[self._neighbours[word] for word in row] for row in words]

    def _add_neighbours(self, words: list[str]) -> None:
        """Compute the neighbours of words; the vector of a word is the mean over its tokens.

        A word in a script of which the vocabulary has too few words gets no neighbours.
        """
        by_script: dict[str, list[str]] = {}
        for word in words:
            script = find_script(word)
            if script in self.vocabulary:
                by_script.setdefault(script, []).append(word)
            else:
                self._neighbours[word] = []

        for script, same in by_script.items():
            texts = self.vocabulary[script].texts
            for first in range(0, len(same), _BLOCK):
                block = same[first : first + _BLOCK]
                vectors = torch.stack([self._vector(word) for word in block])
                # One more than needed: the nearest word is often the word itself.
                scores = vectors @ self._choices[script].T
                nearest = scores.topk(self._count + 1).indices.tolist()
                for word, row in zip(block, nearest, strict=True):
                    neighbours = [texts[i] for i in row if texts[i] != word]
                    self._neighbours[word] = neighbours[: self._count]

    def _vector(self, word: str) -> Tensor:
        token_ids = self._tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        if not token_ids:
            return torch.zeros_like(self._table[0])
        return self._table[torch.tensor(token_ids)].mean(0)


class MaskedCandidates:
    """Predictions of a masked language model for "text with a mask [SEP] original text".

    One mask cannot be filled with a word of several tokens. Such a word gets its neighbours.

    Args:
        model: Masked language model of transformers.
        tokenizer: Its tokenizer.
        count: Number of candidates of each word.
        neighbours: Source of the neighbours.
        limit: Maximum number of tokens of both texts.
    """

    def __init__(
        self, model: Any, tokenizer: Any, count: int, neighbours: NeighbourCandidates, limit: int
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._count = count
        self._neighbours = neighbours
        self._limit = limit
        self._vocabulary = neighbours.vocabulary

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[list[list[str]]]:
        """Return predictions for words of one token, and neighbours for other words."""
        neighbours = self._neighbours(texts)
        return [
            self._predict(text, text_neighbours) if text_neighbours else []
            for text, text_neighbours in zip(texts, neighbours, strict=True)
        ]

    def _predict(self, text: str, neighbours: list[list[str]]) -> list[list[str]]:
        """Return the candidates of each replaceable word of one text."""
        words = find_replaceable_words(text)
        candidates = list(neighbours)
        single_token = [number for number, word in enumerate(words) if self._is_one_token(word.text)]
        if not single_token:
            return candidates

        masked_texts = [self._mask(text, words[number]) for number in single_token]
        batch = self._tokenizer(
            masked_texts,
            [text] * len(masked_texts),
            truncation="longest_first",
            max_length=self._limit,
            padding=True,
            return_tensors="pt",
        ).to(self._model.device)
        logits = self._model(**batch).logits.float().cpu()
        is_mask = batch["input_ids"].cpu() == self._tokenizer.mask_token_id

        for row, number in enumerate(single_token):
            positions = is_mask[row].nonzero().flatten().tolist()
            if not positions:
                # The mask was cut off with the end of a long text.
                continue
            script = find_script(words[number].text)
            if script in self._vocabulary:
                vocabulary = self._vocabulary[script]
                scores = logits[row, positions[0]][torch.tensor(vocabulary.ids)]
                best = scores.topk(self._count + 1).indices.tolist()
                predictions = [vocabulary.texts[i] for i in best]
                others = [text for text in predictions if text != words[number].text]
                candidates[number] = others[: self._count]
        return candidates

    def _is_one_token(self, word: str) -> bool:
        return len(self._tokenizer(" " + word, add_special_tokens=False)["input_ids"]) == 1

    def _mask(self, text: str, word: Word) -> str:
        return text[: word.start] + self._tokenizer.mask_token + text[word.end :]


def replace_words(
    text: str,
    candidates: list[list[str]],
    share: float,
    rng: np.random.Generator,
    agreed: dict[str, str | None] | None = None,
) -> str:
    """Return a text whose replaceable words are replaced with probability `share`.

    Args:
        text: Text to change.
        candidates: Candidates of each replaceable word.
        share: Probability of replacing a word.
        rng: Generator of random numbers; each word takes two, also if it stays.
        agreed: Word -> its replacement in all texts of a row, None if it stays. Missing words are added.
            Without it, each occurrence is decided separately.
    """
    parts: list[str] = []
    last_end = 0
    for word, choices in zip(find_replaceable_words(text), candidates, strict=True):
        chance = rng.random()
        choice = rng.random()
        replacement: str | None = None
        if choices and chance < share:
            replacement = choices[int(choice * len(choices))]
        if agreed is not None:
            replacement = agreed.setdefault(word.text, replacement)
        if replacement is None:
            continue

        original = text[word.start : word.end]
        parts += [text[last_end : word.start], _with_case_of(original, replacement)]
        last_end = word.end
    return "".join([*parts, text[last_end:]])


def _with_case_of(original: str, replacement: str) -> str:
    """Return a replacement in capitals, capitalised, or unchanged, as the original is."""
    if original.isupper() and len(original) > 1:
        return replacement.upper()
    if original[0].isupper():
        return replacement.capitalize()
    return replacement


def augment_rows(
    rows: Sequence[tuple[int, tuple[str, ...]]],
    candidates: Candidates,
    *,
    copies: int,
    share: float,
    seed: int,
    consistent_pairs: bool = False,
) -> list[tuple[int, tuple[str, ...]]]:
    """Return new texts of rows, each with the number of its row.

    A copy that equals its row or an earlier copy is left out. The copies of a row depend only on the seed
    and the row, and not on the other rows of the call.

    Args:
        rows: (row number, one or two texts).
        candidates: Source of replacements.
        copies: Maximum number of new texts of a row.
        share: Probability of replacing a word.
        seed: Seed of the run.
        consistent_pairs: Whether a word that occurs several times in the texts of a row has the same
            replacement everywhere.
    """
    if not rows:
        return []

    num_texts = len(rows[0][1])
    choices = [candidates([texts[side] for _, texts in rows]) for side in range(num_texts)]
    new_rows: list[tuple[int, tuple[str, ...]]] = []
    for position, (number, texts) in enumerate(rows):
        rng = np.random.default_rng([seed, number])
        versions = {texts}
        for _ in range(copies):
            agreed: dict[str, str | None] | None = {} if consistent_pairs else None
            version = tuple(
                replace_words(text, choices[side][position], share, rng, agreed)
                for side, text in enumerate(texts)
            )
            if version not in versions:
                versions.add(version)
                new_rows.append((number, version))
    return new_rows

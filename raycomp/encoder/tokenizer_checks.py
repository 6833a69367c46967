"""Checks that a tokenizer fits its model and the texts of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.errors import UserError, shown

PROBES = (
    "",
    " ",
    "the film was fine",
    "The Film Was FINE, really!",
    "don't re-enter e-mail 12,345.60 $5 (a/b) x_y",
    "café naïve Straße ÉCOLE Ünal",
    "这部电影很好看",
    "映画はとても良かった",
    "Фильм очень хорош",
    "الفيلم جيد",
    "  two  blanks\tand\nlines ",
    "😀 ok",
)
"""Texts that tokenizers of different kinds cut in different ways."""

MIN_VOCABULARY_SHARE = 0.5
"""Smallest allowed share of the model's embedding rows that the tokenizer has tokens for."""

MAX_UNKNOWN_SHARE = 1 / 3
"""Largest allowed share of unknown tokens in the texts of a task."""

MAX_UPPER_CASE_SHARE = 0.05
"""Share of upper-case tokens from which on a vocabulary is a cased one."""


def encode_ids(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, with special tokens."""
    return [encoding.ids for encoding in backend.encode_batch(list(texts))]


def check_vocabulary(tokenizer: Any, vocab_size: int, name: str, missing: str) -> None:
    """Refuse a tokenizer with too few tokens, or with ids beyond the embeddings.

    Args:
        tokenizer: The fast tokenizer.
        vocab_size: Rows of the model's token embeddings.
        name: Name of the model, used in messages.
        missing: Message for a tokenizer without words.

    Raises:
        UserError: The tokenizer does not fit the model.
    """
    vocabulary = tokenizer.get_vocab()
    words = len(set(vocabulary) - set(map(str, tokenizer.all_special_tokens)))
    if words == 0:
        raise UserError(missing)

    # Ids beyond the embeddings would fail in the middle of training.
    last = max(vocabulary, key=lambda token: vocabulary[token])
    if vocabulary[last] >= vocab_size:
        raise UserError(
            f"The tokenizer of {name} has tokens beyond the network's {vocab_size:,}, such as "
            f"{shown(repr(last), 40)} (id {vocabulary[last]:,}): it is another model's, or its "
            "tokenizer_config.json names a class or tokens that do not belong to it. Save the tokenizer "
            "of the model again, or fetch the model again."
        )

    if len(vocabulary) < MIN_VOCABULARY_SHARE * vocab_size:
        raise UserError(
            f"The tokenizer of {name} has {len(vocabulary):,} tokens, but the network has embeddings for "
            f"{vocab_size:,}: its vocabulary is incomplete or another model's. Save the tokenizer of the "
            "model again with save_pretrained."
        )


def check_letter_case(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that lowers the case of texts although its vocabulary has upper-case words.

    A cased vocab.txt without tokenizer_config.json is loaded so: transformers lowers by default.

    Raises:
        UserError: The words in upper case can never be used.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None or normalizer.normalize_str("A") != "a":
        return

    vocabulary = set(tokenizer.get_vocab()) - set(map(str, tokenizer.all_special_tokens))
    # "[unused7]" and its like are in vocabularies without upper case too.
    words = [word for word in vocabulary if not word.startswith("[")]
    cased = [word for word in words if word != word.lower()]
    if len(cased) > MAX_UPPER_CASE_SHARE * len(words):
        raise UserError(
            f"The tokenizer of {name} lowers the case of all texts, but {len(cased):,} of its "
            f"{len(words):,} words have upper-case letters, such as {shown(min(cased), 40)!r}. Add "
            '{"do_lower_case": false} to its tokenizer_config.json, or save the tokenizer again.'
        )


def check_first_token(tokenizer: Any, name: str, *, pair: bool = False) -> None:
    """Refuse a tokenizer that does not begin each text with the same special token.

    The classifier reads the first token, and a text can be empty.

    Args:
        tokenizer: The fast tokenizer.
        name: Name of the model, used in messages.
        pair: Whether a row has two texts.

    Raises:
        UserError: The first token depends on the text, or an empty text gives no token.
    """
    backend = tokenizer.backend_tokenizer
    second = ("film",) if pair else ()

    # An empty text, a word, a number and two words must begin alike.
    rows = [backend.encode(text, *second).ids for text in ("", "the", "7", "film was")]
    first_tokens = {tuple(row[:1]) for row in rows}
    if first_tokens == {()} or len(first_tokens) > 1 or () in first_tokens:
        texts = "a pair of texts" if pair else "a text"
        raise UserError(
            f"The tokenizer of {name} does not put a special token such as [CLS] in front of {texts}, "
            "but the classifier reads the first token. Save the tokenizer of the base model in its "
            'folder, or add a TemplateProcessing to the tokenizer.json (the entry "post_processor").'
        )


@dataclass(frozen=True)
class TokenCounts:
    """How a tokenizer reads some texts.

    Attributes:
        texts: Number of texts that are not blank.
        tokens: Number of their tokens, without special tokens.
        unknown: Number of unknown tokens among them.
        lost: Number of texts that are not blank and do not have a token.
    """

    texts: int
    tokens: int
    unknown: int
    lost: int

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are unknown; a lost text counts as one unknown token."""
        return (self.unknown + self.lost) / max(1, self.tokens + self.lost)


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> TokenCounts:
    """Count the unknown tokens of texts.

    Args:
        tokenizer: The fast tokenizer.
        texts: Texts of the task.
    """
    backend = tokenizer.backend_tokenizer
    unknown_id = tokenizer.unk_token_id

    # A blank text rightly gives nothing but special tokens.
    written = [text for text in texts if text.strip()]
    rows = [row.ids for row in backend.encode_batch(written, add_special_tokens=False)]

    return TokenCounts(
        texts=len(written),
        tokens=sum(map(len, rows)),
        unknown=sum(row.count(unknown_id) for row in rows),
        lost=sum(not row for row in rows),
    )


def check_words(tokenizer: Any, texts: Sequence[str], name: str) -> None:
    """Refuse a tokenizer that does not know the words of the task; see `check_unknown_tokens`."""
    check_unknown_tokens(count_tokens(tokenizer, texts), name)


def check_unknown_tokens(counts: TokenCounts, name: str) -> None:
    """Refuse a tokenizer that does not know the words of the task.

    Args:
        counts: Result of `count_tokens` for training texts.
        name: Name of the model, used in messages.

    Raises:
        UserError: More than `MAX_UNKNOWN_SHARE` of the tokens are unknown.
    """
    if counts.unknown_share > MAX_UNKNOWN_SHARE:
        raise UserError(
            f"The tokenizer of {name} does not know the words of this task: {counts.unknown_share:.0%} "
            f"of the tokens of {counts.texts:,} training texts are unknown or missing. Use a model for "
            "the language and the letters of the texts, or save the tokenizer of the model again."
        )

"""The whole words of a tokenizer's vocabulary, which can replace words of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.data.words import LATIN, UNSPACED_SCRIPTS, find_script, is_word, replaceable_letters

# Marks of a word's beginning in byte-level BPE and in SentencePiece.
_BYTE_START = "Ġ"
_WORD_STARTS = (_BYTE_START, "▁")


@dataclass(frozen=True)
class WholeWords:
    """Whole words of a vocabulary in one script, by id.

    Attributes:
        ids: Token ids.
        texts: The words in lower case.
    """

    ids: list[int]
    texts: list[str]


def list_whole_words(tokenizer: Any) -> dict[str, WholeWords]:
    """Return the alphabetic whole words of a vocabulary for each script that has blanks between words.

    Words in Latin script have only the letters from a to z.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    marks_starts = any(token.startswith(_WORD_STARTS) for token in vocabulary)
    special_tokens = set(tokenizer.all_special_tokens)

    ids: dict[str, dict[str, int]] = {}
    for token, token_id in sorted(vocabulary.items(), key=lambda item: item[1]):
        if token in special_tokens:
            continue
        word = token
        if marks_starts:
            if not token.startswith(_WORD_STARTS):
                continue
            word = token[1:]
            if token[0] == _BYTE_START and not word.isascii():
                # Byte-level BPE writes one character per byte.
                word = tokenizer.convert_tokens_to_string([token]).strip()
        word = word.lower()
        script = find_script(word) if len(word) > 1 and is_word(word) else None
        if script is None or script in UNSPACED_SCRIPTS or (script == LATIN and not word.isascii()):
            continue
        ids.setdefault(script, {}).setdefault(word, token_id)
    return {script: WholeWords(list(words.values()), list(words)) for script, words in ids.items()}


def measure_replaceable(texts: Sequence[str], tokenizer: Any, count: int) -> float:
    """Return the share of the letters of texts that are in words with candidates, except stop words.

    Args:
        texts: Texts to augment.
        tokenizer: Tokenizer of the model.
        count: Number of candidates of each word.
    """
    vocabulary = list_whole_words(tokenizer)
    scripts = {script for script, words in vocabulary.items() if len(words.texts) > count}
    num_replaceable = 0
    num_letters = 0
    for text in texts:
        replaceable, letters = replaceable_letters(text, scripts)
        num_replaceable += replaceable
        num_letters += letters
    return num_replaceable / num_letters if num_letters else 1.0

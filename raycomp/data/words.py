"""The words of a text, and the script that each of them is written in.

Word replacement exchanges words of one script only. In scripts without blanks between words, such as
Chinese, Japanese and Thai, the text between two punctuation marks is a clause, and not a word.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")

LATIN = "LATIN"

# Scripts that write no blanks between words, by the first word of their characters' Unicode names.
UNSPACED_SCRIPTS = frozenset(
    ["CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN",
     "YI", "JAVANESE", "BALINESE", "TAI"]
)  # fmt: skip

# Letters of several scripts.
_COMMON = frozenset(["MODIFIER", "FEMININE", "MASCULINE", "MICRO", "KELVIN", "ANGSTROM"])

# Join controls inside of words, as Persian and languages of India use them.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Word:
    """One replaceable word of a text.

    Attributes:
        start: Index of its first character.
        end: Index after its last character.
        text: The word in lower case.
    """

    start: int
    end: int
    text: str


def find_replaceable_words(text: str) -> list[Word]:
    """Return the words of a text that may be replaced, in order.

    These are the alphabetic words in one script that has blanks between words, except for English stop
    words.
    """
    return [
        word
        for word in _find_words(text)
        if is_word(word.text) and word.text not in _stop_words() and is_replaceable(word.text)
    ]


def replaceable_letters(text: str, scripts: Collection[str]) -> tuple[int, int]:
    """Return the number of letters in replaceable words, and in all words except stop words.

    Args:
        text: Any text.
        scripts: Scripts for which there are replacements.
    """
    words = [word for word in _find_words(text) if word.text not in _stop_words()]
    replaceable = [
        word
        for word in words
        if is_word(word.text) and is_replaceable(word.text) and find_script(word.text) in scripts
    ]
    return sum(len(word.text) for word in replaceable), sum(len(word.text) for word in words)


def is_word(text: str) -> bool:
    """Return whether a text has only letters. In scripts other than Latin, marks belong to letters."""
    if text.isalpha():
        return True
    has_only_marks = all(character.isalpha() or _is_mark(character) for character in text)
    return bool(text) and text[0].isalpha() and has_only_marks and find_script(text) != LATIN


def is_replaceable(word: str) -> bool:
    """Return whether a word is in one script that has blanks between words."""
    script = find_script(word)
    return script is not None and script not in UNSPACED_SCRIPTS


@functools.lru_cache(maxsize=100_000)
def find_script(word: str) -> str | None:
    """Return the script of a word, such as "CYRILLIC"; None if it mixes scripts.

    Args:
        word: Letters, and marks on letters.
    """
    if word.isascii():
        return LATIN
    scripts = {_script_of(character) for character in word if character.isalpha()} - _COMMON
    if not scripts:
        return LATIN
    return scripts.pop() if len(scripts) == 1 else None


def _script_of(character: str) -> str:
    """Return the first word of a character's Unicode name, which is the name of its script."""
    return unicodedata.name(character, "UNKNOWN").partition(" ")[0].partition("-")[0]


def _find_words(text: str) -> Iterator[Word]:
    """Yield the words of a text. A mark on a letter belongs to its word, except in Latin script."""
    matches = _WORD.finditer(text)
    if text.isascii():
        for match in matches:
            yield Word(match.start(), match.end(), match.group().lower())
        return

    start = end = -1
    is_latin = True
    for match in matches:
        # Marks and join controls of the last word are already before `end`.
        if not is_latin and match.start() == end:
            end = _skip_marks(text, match.end())
            continue
        if start >= 0:
            yield Word(start, end, text[start:end].lower())
        start, end = match.span()
        is_latin = find_script(match.group().lower()) == LATIN
        if not is_latin:
            end = _skip_marks(text, end)
    if start >= 0:
        yield Word(start, end, text[start:end].lower())


def _skip_marks(text: str, position: int) -> int:
    """Return the index after the marks and join controls at a position."""
    while position < len(text) and _is_mark(text[position]):
        position += 1
    return position


def _is_mark(character: str) -> bool:
    """Return whether a character is a vowel sign, an accent or another mark on a letter."""
    return unicodedata.category(character).startswith("M") or character in _JOINERS


@functools.cache
def _stop_words() -> frozenset[str]:
    # The import takes a second. Training workers, which augment nothing, do not pay for it.
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS

"""Requests to a server: their JSON, and the limits that keep bad input from the networks."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.errors import RequestError, shown

MAX_BODY_BYTES = 4 * 2**20
"""Largest body of a request: all characters that are allowed, each as two escapes of JSON."""

MAX_TEXTS = 128
"""Largest number of texts of a request."""

MAX_CHARACTERS = 20_000
"""Largest number of characters of a text. A shorter text that has too many tokens is cut."""

MAX_REQUEST_CHARACTERS = 256_000
"""Largest number of characters of all texts of a request. All other requests wait while a tokenizer reads
them, also those that are cut afterwards."""

MAX_LATENCY_MS = 3_600_000
"""Longest time that a request may allow: one hour."""

KEYS = ("text", "text_pair", "texts", "text_pairs", "budget", "latency_ms")

BAD_REQUEST = 400
TOO_LARGE = 413


@dataclass(frozen=True)
class TextRequest:
    """A checked request.

    Attributes:
        texts: At least one text.
        pairs: The second text of each pair; None where the task has one text per row.
        budget: Name of the network that must answer; None leaves the choice to the server.
        latency_ms: Time in which the answer is wanted; None is the target of the server.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    budget: str | None = None
    latency_ms: float | None = None


def read_request(body: bytes, budgets: Collection[str], *, takes_pairs: bool) -> TextRequest:
    """Return the request of a JSON body.

    Args:
        body: Body of the HTTP request.
        budgets: Names that a request may give as its budget.
        takes_pairs: Whether a row of the task has two texts.

    Raises:
        RequestError: The body is not a request. The message is one sentence for the client.
    """
    if len(body) > MAX_BODY_BYTES:
        raise RequestError(TOO_LARGE, f"The body has more than {MAX_BODY_BYTES:,} bytes.")

    fields = _read_object(body)
    texts = _read_texts(fields, "text", "texts")
    pairs = _read_pairs(fields, len(texts)) if takes_pairs else None
    _check_characters((*texts, *(pairs or ())))
    if not takes_pairs and {"text_pair", "text_pairs"} & set(fields):
        raise RequestError(BAD_REQUEST, "This task has one text per row; send no text_pair.")

    return TextRequest(texts, pairs, _read_budget(fields, budgets), _read_latency(fields))


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    # json raises RecursionError for thousands of nested brackets, and UnicodeDecodeError for other bytes.
    except (ValueError, RecursionError):
        raise RequestError(BAD_REQUEST, "The body is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise RequestError(
            BAD_REQUEST, 'The body must be a JSON object such as {"text": "A fine film."}.'
        )
    # A key that is misspelt would otherwise be ignored, and the default network would answer.
    unknown = [key for key in fields if key not in KEYS]
    if unknown:
        raise RequestError(
            BAD_REQUEST, f"The key {shown(unknown[0])!r} is unknown; the keys are {', '.join(KEYS)}."
        )
    if "budget" in fields and "latency_ms" in fields:
        raise RequestError(BAD_REQUEST, "Send budget or latency_ms, not both.")
    return fields


def _read_texts(fields: dict[str, Any], single: str, several: str) -> tuple[str, ...]:
    """Return the texts under one of two keys: one text, or a list of texts."""
    if (single in fields) == (several in fields):
        raise RequestError(BAD_REQUEST, f"Send one text as {single}, or a list of texts as {several}.")

    # One text is a list of one: all further checks are the same.
    texts = [fields[single]] if single in fields else fields[several]
    if not isinstance(texts, list) or not texts:
        raise RequestError(BAD_REQUEST, f"{several} must be a list of at least one text.")
    if len(texts) > MAX_TEXTS:
        raise RequestError(
            TOO_LARGE, f"The request has {len(texts):,} texts, and at most {MAX_TEXTS} are allowed."
        )
    for number, text in enumerate(texts, 1):
        _check_text(text, number)

    return tuple(texts)


def _read_pairs(fields: dict[str, Any], num_texts: int) -> tuple[str, ...]:
    pairs = _read_texts(fields, "text_pair", "text_pairs")
    if len(pairs) != num_texts or ("text" in fields) != ("text_pair" in fields):
        raise RequestError(
            BAD_REQUEST,
            "This task has two texts per row; send text and text_pair, or texts and text_pairs.",
        )
    return pairs


def _check_characters(texts: Sequence[str]) -> None:
    number = sum(len(text) for text in texts)
    if number > MAX_REQUEST_CHARACTERS:
        raise RequestError(
            TOO_LARGE,
            f"The texts of the request have {number:,} characters together, and at most "
            f"{MAX_REQUEST_CHARACTERS:,} are allowed.",
        )


def _check_text(text: Any, number: int) -> None:
    if not isinstance(text, str):
        raise RequestError(BAD_REQUEST, f"Text {number} is not a string.")
    if not text.strip():
        raise RequestError(BAD_REQUEST, f"Text {number} is empty.")
    if len(text) > MAX_CHARACTERS:
        raise RequestError(
            TOO_LARGE,
            f"Text {number} has {len(text):,} characters, and at most {MAX_CHARACTERS:,} are allowed.",
        )
    # JSON can escape half of a pair of UTF-16, which tokenizers refuse, and which UTF-8 cannot write.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(BAD_REQUEST, f"Text {number} contains half of a character.") from None


def _read_budget(fields: dict[str, Any], budgets: Collection[str]) -> str | None:
    budget = fields.get("budget")
    if budget is None:
        return None
    if not isinstance(budget, str) or budget not in budgets:
        raise RequestError(
            BAD_REQUEST,
            f"The budget {shown(str(budget))!r} is not served; the budgets are {', '.join(budgets)}.",
        )
    return budget


def _read_latency(fields: dict[str, Any]) -> float | None:
    latency_ms = fields.get("latency_ms")
    if latency_ms is None:
        return None
    # In Python, true is a number.
    is_number = isinstance(latency_ms, int | float) and not isinstance(latency_ms, bool)
    if not is_number or not 0 < latency_ms <= MAX_LATENCY_MS:
        raise RequestError(
            BAD_REQUEST, f"latency_ms must be a number above 0 and up to {MAX_LATENCY_MS:,}."
        )
    return float(latency_ms)

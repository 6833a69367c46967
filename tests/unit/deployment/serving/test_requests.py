"""Good requests are read, and bad ones get a status of 4xx and one sentence. tests/fuzz has any body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raycomp.deployment.serving.requests import (
    MAX_BODY_BYTES,
    MAX_CHARACTERS,
    MAX_REQUEST_CHARACTERS,
    MAX_TEXTS,
    TextRequest,
    read_request,
)
from raycomp.errors import RequestError

BUDGETS = ("teacher", "half")


def read(body: Any, *, takes_pairs: bool = False) -> TextRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(raw, BUDGETS, takes_pairs=takes_pairs)


def test_requests_with_one_text_several_texts_and_pairs() -> None:
    assert read({"text": "a fine film"}) == TextRequest(("a fine film",))
    assert read({"texts": ["a", "b"], "budget": "half"}) == TextRequest(("a", "b"), None, "half")
    assert read({"text": "a", "latency_ms": 20}) == TextRequest(("a",), None, None, 20.0)
    pair = {"text": "a", "text_pair": "b"}
    assert read(pair, takes_pairs=True) == TextRequest(("a",), ("b",))
    pairs = {"texts": ["a", "c"], "text_pairs": ["b", "d"]}
    assert read(pairs, takes_pairs=True) == TextRequest(("a", "c"), ("b", "d"))
    # The longest text that is allowed.
    assert read({"text": "a" * MAX_CHARACTERS}).texts[0] == "a" * MAX_CHARACTERS


BAD: list[tuple[Any, int, str]] = [
    (b"", 400, "not valid JSON"),
    (b"text=film", 400, "not valid JSON"),
    (b"\xff\xfe", 400, "not valid JSON"),
    (b"[" * 100_000, 400, "not valid JSON"),
    (["a"], 400, "must be a JSON object"),
    ({}, 400, "Send one text as text"),
    ({"text": "a", "texts": ["b"]}, 400, "Send one text as text"),
    ({"text": ""}, 400, "Text 1 is empty"),
    ({"texts": ["a", " \n"]}, 400, "Text 2 is empty"),
    ({"text": 3}, 400, "Text 1 is not a string"),
    ({"text": None}, 400, "Text 1 is not a string"),
    ({"texts": "a"}, 400, "must be a list"),
    ({"texts": []}, 400, "must be a list"),
    (b'{"text": "\\ud800"}', 400, "half of a character"),
    ({"text": "a", "temperature": 1}, 400, "key 'temperature' is unknown"),
    ({"text": "a", "budget": "tiny"}, 400, "budget 'tiny' is not served; the budgets are teacher, half"),
    ({"text": "a", "budget": ["half"]}, 400, "is not served"),
    ({"text": "a", "latency_ms": 0}, 400, "latency_ms"),
    ({"text": "a", "latency_ms": True}, 400, "latency_ms"),
    ({"text": "a", "latency_ms": "20"}, 400, "latency_ms"),
    (b'{"text": "a", "latency_ms": NaN}', 400, "latency_ms"),
    (b'{"text": "a", "latency_ms": 1' + b"0" * 400 + b"}", 400, "latency_ms"),
    ({"text": "a", "budget": "half", "latency_ms": 5}, 400, "not both"),
    ({"text": "a", "text_pair": "b"}, 400, "one text per row"),
    ({"text": "word " * 100_000}, 413, "has 500,000 characters"),
    ({"texts": ["a"] * (MAX_TEXTS + 1)}, 413, "has 129 texts"),
    ({"texts": ["a" * MAX_CHARACTERS] * 13}, 413, "260,000 characters together, and at most 256,000"),
    (b" " * (MAX_BODY_BYTES + 1), 413, "The body has more than"),
]


def test_the_largest_requests_are_read() -> None:
    # An emoji is two escapes in JSON: no body with so many characters is longer.
    text = "\U0001f600" * (MAX_REQUEST_CHARACTERS // MAX_TEXTS)
    assert read({"texts": [text] * MAX_TEXTS}).texts == (text,) * MAX_TEXTS
    # Both texts of a pair count.
    half = [text] * (MAX_TEXTS // 2)
    assert read({"texts": half, "text_pairs": half}, takes_pairs=True).pairs == tuple(half)
    with pytest.raises(RequestError, match="characters together"):
        read({"texts": [text] * MAX_TEXTS, "text_pairs": ["a"] * MAX_TEXTS}, takes_pairs=True)


@pytest.mark.parametrize(("body", "status", "words"), BAD)
def test_a_bad_request_gets_a_status_and_one_sentence(body: Any, status: int, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(body)

    assert caught.value.status == status
    assert words in caught.value.message
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [{"text": "a"}, {"text": "a", "text_pairs": ["b"]}, {"texts": ["a", "b"], "text_pairs": ["c"]}],
)
def test_a_task_of_pairs_needs_pairs(body: Any) -> None:
    with pytest.raises(RequestError, match="text_pair") as caught:
        read(body, takes_pairs=True)
    assert caught.value.status == 400

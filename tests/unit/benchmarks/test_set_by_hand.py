"""Networks that a person writes on the command line of benchmarks/set_by_hand.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.set_by_hand import parse_network
from raycomp.encoder.architecture import Architecture
from raycomp.search.space import SearchSpace

CONTEXT: Any = SimpleNamespace(space=SearchSpace(3, depth=(1, 2, 3), heads=(2, 4), ffn=(16, 64)))


def test_a_network_has_equal_layers() -> None:
    assert parse_network(CONTEXT, "2x4x16") == Architecture(2, (4, 4), (16, 16))
    assert parse_network(CONTEXT, "2x3x48") == Architecture(2, (3, 3), (48, 48))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2x4", "LAYERSxHEADSxNEURONS"),
        ("2xfourx16", "LAYERSxHEADSxNEURONS"),
        ("2x5x16", "the full network of the run is smaller"),
        ("4x4x16", "the full network of the run is smaller"),
        ("2x4x65", "the full network of the run is smaller"),
        ("0x4x16", "LAYERSxHEADSxNEURONS"),
    ],
)
def test_another_network_ends_with_a_message(text: str, message: str) -> None:
    with pytest.raises(SystemExit, match=f"--networks {text}: .*{message}"):
        parse_network(CONTEXT, text)

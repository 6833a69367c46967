"""The value that names one sub-network."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.errors import UserError


@dataclass(frozen=True)
class WordTable:
    """The word embeddings of an architecture.

    Attributes:
        is_cut: Whether only the tokens of the task have a row.
        rank: Columns of the first of two matrices whose product is the table; None is one matrix.
    """

    is_cut: bool = False
    rank: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values; those of the full table are left out."""
        cut = {"vocabulary": "task"} if self.is_cut else {}
        return cut if self.rank is None else {**cut, "rank": self.rank}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> WordTable:
        """Read what `to_dict` returned.

        Raises:
            ValueError: It is not a word table.
        """
        rank = data.get("rank")
        is_valid = rank is None or (type(rank) is int and rank > 0)
        if set(data) - {"vocabulary", "rank"} or data.get("vocabulary", "task") != "task" or not is_valid:
            raise ValueError(f"table {data}")
        return WordTable("vocabulary" in data, rank)


FULL_TABLE = WordTable()
"""The word table of the full network."""


@dataclass(frozen=True)
class Architecture:
    """Layers that run, the attention heads and FFN neurons of each, and the word table.

    It is frozen and hashable.

    0 heads or 0 neurons skip that sub-layer with its residual connection and LayerNorm: its output is its
    input. `layers=(0, ..., depth - 1)` and `layers=None` are the same value.

        >>> Architecture(2, heads=(4, 4), ffn=(512, 0), layers=(0, 5)).layer_indices
        (0, 5)

    Attributes:
        depth: Number of layers that run.
        heads: Attention heads of each of these layers, length `depth`.
        ffn: FFN neurons of each of these layers, length `depth`.
        layers: Indices of these layers in the full network, ascending; None is the first `depth`.
        table: The word embeddings.
    """

    depth: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    layers: tuple[int, ...] | None = None
    table: WordTable = FULL_TABLE

    def __post_init__(self) -> None:
        if not self.depth == len(self.heads) == len(self.ffn) or self.depth < 1:
            raise ValueError(
                f"depth {self.depth} needs as many heads and ffn entries; "
                f"given {len(self.heads)} and {len(self.ffn)}"
            )
        if min(self.heads) < 0 or min(self.ffn) < 0:
            raise ValueError("heads and ffn must be at least 0 in every layer")
        if self.layers is None:
            return

        ascending = list(self.layers) == sorted(set(self.layers)) and self.layers[:1] >= (0,)
        if len(self.layers) != self.depth or not ascending:
            raise ValueError(
                f"layers {list(self.layers)} must be {self.depth} different numbers from 0 up, ascending"
            )
        if self.layers == tuple(range(self.depth)):
            # One value, one JSON and one id for the first `depth` layers.
            object.__setattr__(self, "layers", None)

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """Indices of the layers that run in the full network, ascending, length `depth`."""
        return tuple(range(self.depth)) if self.layers is None else self.layers

    def to_json(self) -> str:
        """Return the one canonical JSON of this architecture."""
        data: dict[str, Any] = {
            "depth": self.depth,
            "heads": list(self.heads),
            "ffn": list(self.ffn),
        }
        if self.layers is not None:
            data["layers"] = list(self.layers)
        if self.table != FULL_TABLE:
            data["table"] = self.table.to_dict()
        return json.dumps(data, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Architecture:
        """Read the JSON that `to_json` writes.

        Raises:
            UserError: The text is not the JSON of an architecture.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if set(data) - {"layers", "table"} != {"depth", "heads", "ffn"}:
                raise ValueError(f"keys {sorted(data)}")
            layers = data.get("layers")
            # JSON's true and 2.0 would pass as numbers, and give the architecture another id.
            numbers = [data["depth"], *data["heads"], *data["ffn"], *(layers or [])]
            if not all(type(n) is int for n in numbers):
                raise ValueError("a number is not an integer")
            return Architecture(
                data["depth"],
                tuple(data["heads"]),
                tuple(data["ffn"]),
                None if layers is None else tuple(layers),
                WordTable.from_dict(data.get("table", {})),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{text[:200]!r} is not an architecture ({error}). Write it like "
                '{"depth": 2, "heads": [4, 4], "ffn": [512, 512]}.'
            ) from None

    @functools.cached_property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def enclosing_architecture(archs: Sequence[Architecture]) -> Architecture:
    """Return the smallest architecture that contains all of the given ones: front slices nest."""
    heads: dict[int, int] = {}
    ffn: dict[int, int] = {}
    for arch in archs:
        for layer, head_count, neuron_count in zip(arch.layer_indices, arch.heads, arch.ffn, strict=True):
            heads[layer] = max(heads.get(layer, 0), head_count)
            ffn[layer] = max(ffn.get(layer, 0), neuron_count)

    layers = tuple(sorted(heads))
    return Architecture(
        len(layers), tuple(heads[i] for i in layers), tuple(ffn[i] for i in layers), layers
    )

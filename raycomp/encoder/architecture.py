"""The value that names one sub-network."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from raycomp.errors import UserError


@dataclass(frozen=True, order=True)
class Architecture:
    """Depth, and heads and FFN width of each layer that is kept. Frozen and hashable.

    Attributes:
        depth: layers, counted from the input.
        heads: attention heads of each layer, length `depth`.
        ffn: FFN neurons of each layer, length `depth`.
    """

    depth: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.depth == len(self.heads) == len(self.ffn) or self.depth < 1:
            raise ValueError(
                f"depth {self.depth} needs as many heads and ffn entries; "
                f"given {len(self.heads)} and {len(self.ffn)}"
            )
        if min(self.heads) < 1 or min(self.ffn) < 1:
            raise ValueError("heads and ffn must be at least 1 in every layer")

    def to_json(self) -> str:
        """Return the one canonical JSON of this architecture."""
        data = {"depth": self.depth, "heads": list(self.heads), "ffn": list(self.ffn)}
        return json.dumps(data, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Architecture:
        """Read what `to_json` wrote.

        Raises:
            UserError: the text is no architecture.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if set(data) != {"depth", "heads", "ffn"}:
                raise ValueError(f"keys {sorted(data)}")
            numbers = [data["depth"], *data["heads"], *data["ffn"]]
            if not all(type(n) is int for n in numbers):
                raise ValueError("a number is not whole")
            return Architecture(data["depth"], tuple(data["heads"]), tuple(data["ffn"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{text[:200]!r} is no architecture ({error}); expected "
                '{"depth": 2, "heads": [4, 4], "ffn": [512, 512]}'
            ) from None

    @functools.cached_property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

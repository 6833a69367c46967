"""A searched structure as a value: the number of cells K and one operation per edge (Eq. 2)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.errors import UserError
from raycomp.methods.adabert.settings import OPERATIONS

# Name -> (kernel, dilation) of the convolutions; the other operations have no weights.
CONVOLUTIONS: dict[str, tuple[int, int]] = {
    "std_conv_3": (3, 1),
    "std_conv_5": (5, 1),
    "std_conv_7": (7, 1),
    "dil_conv_3": (3, 2),
    "dil_conv_5": (5, 2),
    "dil_conv_7": (7, 2),
}


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """Return (source, target) of each edge of a cell with `nodes` inner nodes.

    Nodes 0 and 1 are the inputs c_{k-2} and c_{k-1}; inner nodes are 2 .. nodes + 1; every node
    feeds every later inner node. Three inner nodes have nine edges.
    """
    return [(i, j) for j in range(2, nodes + 2) for i in range(j)]


@dataclass(frozen=True)
class Structure:
    """K cells of one shared form.

    Attributes:
        layers: K, the number of stacked cells.
        operations: one name of OPERATIONS per edge, in the order of `cell_edges(nodes)`.
        nodes: inner nodes of a cell.
    """

    layers: int
    operations: tuple[str, ...]
    nodes: int = 3

    def __post_init__(self) -> None:
        if self.layers < 1 or len(self.operations) != len(cell_edges(self.nodes)):
            raise UserError(
                f"a structure needs at least 1 cell and {len(cell_edges(self.nodes))} operations; "
                f"{self.layers} and {len(self.operations)} were given"
            )
        unknown = sorted(set(self.operations) - set(OPERATIONS))
        if unknown:
            raise UserError(
                f"unknown operation {unknown[0]!r} in a structure; allowed: {', '.join(OPERATIONS)}"
            )

    def to_json(self) -> str:
        """Return the canonical JSON."""
        return json.dumps(
            {"layers": self.layers, "nodes": self.nodes, "operations": list(self.operations)},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read what `to_json` wrote.

        Raises:
            UserError: the text is no structure.
        """
        try:
            data = json.loads(text)
            return cls(int(data["layers"]), tuple(data["operations"]), int(data["nodes"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{text[:80]!r} is no structure") from None

    @property
    def id(self) -> str:
        """First 12 hex digits of the hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


def random_structure(layers: int, nodes: int, operations: Sequence[str], seed: int) -> Structure:
    """Draw K from 1 to `layers` and every operation uniformly; a cell of zeros alone is drawn again."""
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(1, layers + 1))
    while True:
        drawn = tuple(str(o) for o in rng.choice(list(operations), len(cell_edges(nodes))))
        if set(drawn) != {"zero"}:
            return Structure(cells, drawn, nodes)


def parse_structure_setting(text: str, layers: int, nodes: int, operations: Sequence[str]) -> Structure:
    """Read `adabert.structure`: the JSON of a structure, or "random:N".

    Raises:
        UserError: it is neither, or has another number of nodes than the job's cells.
    """
    word, _, number = text.partition(":")
    if word == "random" and number.isdigit():
        return random_structure(layers, nodes, operations, int(number))
    found = Structure.from_json(text)
    if found.nodes != nodes:
        raise UserError(
            f"adabert.structure has {found.nodes} inner nodes and adabert.nodes is {nodes}; set that to "
            f"{found.nodes}"
        )
    return found

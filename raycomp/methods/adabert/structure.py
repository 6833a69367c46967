"""A searched structure as a value: the number of cells K and one operation per edge (Eq. 2)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raycomp.errors import UserError
from raycomp.methods.adabert.settings import OPERATIONS

# Name -> (kernel, dilation) of the convolutions; the other operations are without weights.
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

    Nodes 0 and 1 are the inputs c_{k-2} and c_{k-1}. The inner nodes are 2 .. nodes + 1, and each has an
    edge from every node before it. Three inner nodes have nine edges.

    >>> cell_edges(2)
    [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    """
    return [(i, j) for j in range(2, nodes + 2) for i in range(j)]


@dataclass(frozen=True)
class Structure:
    """K stacked cells of one form: alpha = {K, alpha_c} of Eq. 2.

    >>> structure = Structure(layers=4, operations=("std_conv_3",) * 9)
    >>> Structure.from_json(structure.to_json()) == structure
    True

    Attributes:
        layers: K, the number of stacked cells.
        operations: One name of OPERATIONS per edge, in the order of `cell_edges(nodes)`.
        nodes: Inner nodes of a cell.
    """

    layers: int
    operations: tuple[str, ...]
    nodes: int = 3

    def __post_init__(self) -> None:
        edges = len(cell_edges(self.nodes))
        if self.layers < 1 or len(self.operations) != edges:
            raise UserError(
                f"The structure has {self.layers} cells and {len(self.operations)} operations. With "
                f"{self.nodes} inner nodes it needs at least 1 cell and exactly {edges} operations."
            )
        unknown = sorted(set(self.operations) - set(OPERATIONS))
        if unknown:
            raise UserError(
                f"The structure has the unknown operation {unknown[0]!r}. Use one of: "
                f"{', '.join(OPERATIONS)}."
            )

    def to_json(self) -> str:
        """Return the canonical JSON."""
        return json.dumps(
            {"layers": self.layers, "nodes": self.nodes, "operations": list(self.operations)},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read the JSON of a structure.

        Raises:
            UserError: The text is not the JSON of a structure.
        """
        try:
            data = json.loads(text)
            return cls(int(data["layers"]), tuple(data["operations"]), int(data["nodes"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{text[:80]!r} is not a structure. Use the JSON in the column `arch` of the table "
                "`deployments`."
            ) from None

    @property
    def id(self) -> str:
        """First 12 hex digits of the hash of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


def random_structure(layers: int, nodes: int, operations: Sequence[str], seed: int) -> Structure:
    """Draw K from 1 to `layers` and every operation, all uniformly.

    A cell of only `zero` computes nothing, so it is drawn again.
    """
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(1, layers + 1))
    while True:
        names = tuple(str(name) for name in rng.choice(list(operations), len(cell_edges(nodes))))
        if set(names) != {"zero"}:
            return Structure(cells, names, nodes)


def parse_structure_setting(text: str, layers: int, nodes: int, operations: Sequence[str]) -> Structure:
    """Read the setting `adabert.structure`: the JSON of a structure, or "random:N".

    Args:
        text: Value of the setting.
        layers: Largest number of cells of a random structure.
        nodes: Inner nodes of the job's cells.
        operations: Candidate operations of a random structure.

    Raises:
        UserError: The text is neither, or the structure has another number of nodes than the job.
    """
    word, _, number = text.partition(":")
    if word == "random" and number.isdigit():
        return random_structure(layers, nodes, operations, int(number))
    structure = Structure.from_json(text)
    if structure.nodes != nodes:
        raise UserError(
            f"adabert.structure has {structure.nodes} inner nodes, and adabert.nodes is {nodes}. Set "
            f"adabert.nodes to {structure.nodes}."
        )
    return structure

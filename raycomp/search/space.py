"""The search space: which depths, heads and FFN widths there are (YOCO-BERT, Section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raycomp.encoder.architecture import FULL_TABLE, Architecture, WordTable
from raycomp.errors import UserError


@dataclass(frozen=True)
class Variable:
    """One categorical variable of the architecture distribution.

    Attributes:
        name: "depth", "heads.0", "ffn.0", ..., or "layer.0" for a joint (heads, ffn) choice; "table".
        choices: Values in ascending order; pairs (heads, ffn) for a joint variable.
        layer: Index of the layer that it belongs to; None for depth, the word table, and the FFN width
            that all layers of a plain space share.
    """

    name: str
    choices: tuple[int, ...] | tuple[tuple[int, int], ...] | tuple[WordTable, ...]
    layer: int | None


@dataclass(frozen=True)
class SearchSpace:
    """Choices of each dimension, ascending; a depth of d is the first d layers.

    Attributes:
        num_layers: Layers of the full network.
        depth: Numbers of layers, from 1.
        heads: Attention heads of a layer; 0 leaves its attention out.
        ffn: FFN neurons of a layer; 0 leaves its FFN out.
        is_plain: Whether all layers have the same widths, as the classes of transformers need it. The
            space then has one choice of heads, and its variables are depth and one FFN width.
        tables: Word tables in the order of their parameters. The super-network is trained with the
            largest one, so plans of trainings leave them out.
    """

    num_layers: int
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    is_plain: bool = False
    tables: tuple[WordTable, ...] = (FULL_TABLE,)

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "ffn"):
            values = getattr(self, name)
            least = 1 if name == "depth" else 0
            if not values or min(values) < least or list(values) != sorted(set(values)):
                raise UserError(
                    f"space.{name} is {list(values)}. Give different numbers from {least} up, in "
                    "ascending order."
                )
        if self.is_plain and (len(self.heads) != 1 or 0 in (*self.heads, *self.ffn)):
            raise UserError(
                f"space.plain needs one number of heads and FFN widths above 0, and the space has heads "
                f"{list(self.heads)} and ffn {list(self.ffn)}. Change these lists, or leave out "
                "space.plain."
            )
        if max(self.depth) > self.num_layers:
            raise UserError(
                f"space.depth contains {max(self.depth)}, but the network has {self.num_layers} layers. "
                "Give smaller numbers."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Return the space that `to_dict` described."""
        depth, heads, ffn = (tuple(data[name]) for name in ("depth", "heads", "ffn"))
        return cls(data["layers"], depth, heads, ffn, bool(data.get("plain", False)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values, as training plans have them."""
        choices = {name: list(getattr(self, name)) for name in ("depth", "heads", "ffn")}
        # Plans of runs from before plain spaces lack the key, and their hashes must stay.
        plain = {"plain": True} if self.is_plain else {}
        return {"layers": self.num_layers, **choices, **plain}

    def narrowed(
        self, depth: tuple[int, ...], heads: tuple[int, ...], ffn: tuple[int, ...]
    ) -> SearchSpace:
        """Return the same space with some of its choices."""
        return replace(self, depth=depth, heads=heads, ffn=ffn)

    def equalised(self, arch: Architecture) -> Architecture:
        """Return an architecture with the first layer's widths in all layers, if the space is plain.

        Crossovers and mutations change layers one by one.
        """
        if not self.is_plain:
            return arch
        return replace(arch, heads=arch.heads[:1] * arch.depth, ffn=arch.ffn[:1] * arch.depth)

    def num_architectures(self) -> int:
        """Return the exact number of architectures."""
        if self.is_plain:
            return len(self.depth) * len(self.ffn) * len(self.tables)
        return len(self.tables) * sum((len(self.heads) * len(self.ffn)) ** d for d in self.depth)

    def contains(self, arch: Architecture) -> bool:
        """Return whether an architecture is in the space; one with chosen `layers` never is."""
        return (
            arch.layers is None
            and arch.depth in self.depth
            and set(arch.heads) <= set(self.heads)
            and set(arch.ffn) <= set(self.ffn)
            and arch.table in self.tables
            and self.equalised(arch) == arch
        )

    def largest(self) -> Architecture:
        """Return the largest architecture."""
        depth = self.depth[-1]
        return Architecture(depth, (self.heads[-1],) * depth, (self.ffn[-1],) * depth)

    def smallest(self) -> Architecture:
        """Return the architecture with the fewest parameters; see `budget.cheapest_architecture`."""
        depth = self.depth[0]
        widths = ((self.heads[0],) * depth, (self.ffn[0],) * depth)
        return Architecture(depth, *widths, table=self.tables[0])

    def sample_uniform(self, rng: np.random.Generator) -> Architecture:
        """Draw every variable uniformly (the exploration distribution pi)."""
        depth = draw_uniform(self.depth, rng)
        if self.is_plain:
            heads = self.heads * depth
            ffn = (draw_uniform(self.ffn, rng),) * depth
        else:
            # All layers of a kind in one call.
            heads = tuple(self.heads[i] for i in rng.integers(len(self.heads), size=depth).tolist())
            ffn = tuple(self.ffn[i] for i in rng.integers(len(self.ffn), size=depth).tolist())
        return Architecture(depth, heads, ffn, table=self.sample_table(rng))

    def sample_table(self, rng: np.random.Generator) -> WordTable:
        """Draw a word table uniformly; a space with one table needs no random number."""
        if len(self.tables) == 1:
            return self.tables[0]
        return self.tables[int(rng.integers(len(self.tables)))]

    def variables(self, joint: bool = False) -> tuple[Variable, ...]:
        """Return the variables: depth, then heads and ffn of each layer.

        Args:
            joint: Whether heads and ffn of a layer are one variable.
        """
        variables = [Variable("depth", self.depth, None)]
        # The last variable: the indices of the layers do not depend on it.
        table = (Variable("table", self.tables, None),) if len(self.tables) > 1 else ()
        if self.is_plain:
            return (*variables, Variable("ffn", self.ffn, None), *table)
        pairs = tuple((h, k) for h in self.heads for k in self.ffn)
        for i in range(self.num_layers):
            if joint:
                variables.append(Variable(f"layer.{i}", pairs, i))
            else:
                variables.append(Variable(f"heads.{i}", self.heads, i))
                variables.append(Variable(f"ffn.{i}", self.ffn, i))
        return (*variables, *table)

    def encode(self, arch: Architecture, joint: bool = False) -> np.ndarray:
        """Return one choice index per variable, -1 where the layer does not run: (variables,).

        Args:
            arch: The architecture.
            joint: Whether heads and ffn of a layer are one variable.

        Raises:
            UserError: The architecture is not in the space.
        """
        if not self.contains(arch):
            raise UserError(f"{arch.to_json()} is not in the search space. Use values of [space].")

        indices = [self.depth.index(arch.depth)]
        table = [self.tables.index(arch.table)] if len(self.tables) > 1 else []
        if self.is_plain:
            return np.array([*indices, self.ffn.index(arch.ffn[0]), *table], np.int64)
        for heads, ffn in zip(arch.heads, arch.ffn, strict=True):
            heads_index = self.heads.index(heads)
            ffn_index = self.ffn.index(ffn)
            if joint:
                indices.append(heads_index * len(self.ffn) + ffn_index)
            else:
                indices += [heads_index, ffn_index]
        # Absent layers have -1, which updates and costs skip.
        absent_layers = self.num_layers - arch.depth
        indices += [-1] * (absent_layers if joint else 2 * absent_layers)
        return np.array([*indices, *table], np.int64)

    def decode(self, indices: np.ndarray, joint: bool = False) -> Architecture:
        """Return the architecture of choice indices; those of layers that do not run are ignored.

        Args:
            indices: (variables,), as `encode` returns them.
            joint: Whether heads and ffn of a layer are one variable.
        """
        depth = self.depth[int(indices[0])]
        table = self.tables[int(indices[-1])] if len(self.tables) > 1 else self.tables[0]
        if self.is_plain:
            ffn_width = self.ffn[int(indices[1])]
            return Architecture(depth, self.heads * depth, (ffn_width,) * depth, table=table)
        heads: list[int] = []
        ffn: list[int] = []
        for i in range(depth):
            if joint:
                heads_index, ffn_index = divmod(int(indices[1 + i]), len(self.ffn))
            else:
                heads_index = int(indices[1 + 2 * i])
                ffn_index = int(indices[2 + 2 * i])
            heads.append(self.heads[heads_index])
            ffn.append(self.ffn[ffn_index])
        return Architecture(depth, tuple(heads), tuple(ffn), table=table)

    def layer_sums(
        self, cost: Callable[[int, int], float], joint: bool = False
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from choice indices to the summed costs of the layers that run.

        Args:
            cost: From heads and neurons of a layer to its cost.
            joint: Whether heads and ffn of a layer are one variable.

        Returns:
            Function from (samples, variables), as `encode` returns them, to (samples,).
        """
        table = np.array([[cost(h, k) for k in self.ffn] for h in self.heads])

        if self.is_plain:
            depths = np.array(self.depth)
            return lambda rows: depths[rows[:, 0]] * table[0, rows[:, 1]]

        def sum_costs(rows: np.ndarray) -> np.ndarray:
            if joint:
                layer_indices = rows[:, 1:]
                costs = table.ravel()[layer_indices]
            else:
                layer_indices = rows[:, 1::2]
                costs = table[layer_indices, rows[:, 2::2]]
            sums: np.ndarray = np.where(layer_indices >= 0, costs, 0).sum(1)
            return sums

        return sum_costs


def draw_uniform(choices: Sequence[int], rng: np.random.Generator) -> int:
    """Draw one of the choices: the draw of `rng.choice`, which takes most of its time for conversions."""
    return choices[int(rng.integers(len(choices)))]

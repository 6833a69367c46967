"""The search space: which depths, heads and FFN widths there are (YOCO-BERT, Section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError

__all__ = ["Architecture", "SearchSpace", "Variable"]


@dataclass(frozen=True)
class Variable:
    """One categorical variable of the distribution.

    Attributes:
        name: "depth", "heads.0", "ffn.0", ..., or "layer.0" for a joint (heads, ffn) choice.
        choices: values in ascending order; pairs (heads, ffn) for a joint variable.
        layer: the layer that it belongs to; None for depth.
    """

    name: str
    choices: tuple[int, ...] | tuple[tuple[int, int], ...]
    layer: int | None


@dataclass(frozen=True)
class SearchSpace:
    """Choices of each dimension, ascending.

    Attributes:
        num_layers: layers of the full network.
        depth, heads, ffn: the allowed values.
    """

    num_layers: int
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("depth", "heads", "ffn"):
            values = getattr(self, name)
            least = 1 if name == "depth" else 0
            if not values or min(values) < least or list(values) != sorted(set(values)):
                raise UserError(
                    f"space.{name} is {list(values)}. Give different numbers from {least} up, in "
                    "ascending order."
                )
        if max(self.depth) > self.num_layers:
            raise UserError(f"space.depth goes to {max(self.depth)}; there are {self.num_layers} layers")

    def num_architectures(self) -> int:
        """Return the exact number of architectures."""
        return sum((len(self.heads) * len(self.ffn)) ** d for d in self.depth)

    def contains(self, arch: Architecture) -> bool:
        """Return whether the space has an architecture; its depths are always the first layers."""
        return (
            arch.layers is None
            and arch.depth in self.depth
            and set(arch.heads) <= set(self.heads)
            and set(arch.ffn) <= set(self.ffn)
        )

    def largest(self) -> Architecture:
        """Return the largest architecture."""
        d = self.depth[-1]
        return Architecture(d, (self.heads[-1],) * d, (self.ffn[-1],) * d)

    def smallest(self) -> Architecture:
        """Return the smallest architecture."""
        d = self.depth[0]
        return Architecture(d, (self.heads[0],) * d, (self.ffn[0],) * d)

    def sample_uniform(self, rng: np.random.Generator) -> Architecture:
        """Draw every variable uniformly (the exploration distribution pi)."""
        d = int(rng.choice(self.depth))
        heads = tuple(int(h) for h in rng.choice(self.heads, d))
        return Architecture(d, heads, tuple(int(k) for k in rng.choice(self.ffn, d)))

    def variables(self, joint: bool = False) -> tuple[Variable, ...]:
        """Return the variables: depth, then heads and ffn of each layer, or one joint variable."""
        found = [Variable("depth", self.depth, None)]
        for i in range(self.num_layers):
            if joint:
                pairs = tuple((h, k) for h in self.heads for k in self.ffn)
                found.append(Variable(f"layer.{i}", pairs, i))
            else:
                found.append(Variable(f"heads.{i}", self.heads, i))
                found.append(Variable(f"ffn.{i}", self.ffn, i))
        return tuple(found)

    def encode(self, arch: Architecture, joint: bool = False) -> np.ndarray:
        """Return one choice index per variable, -1 where the layer is not kept: (variables,)."""
        if not self.contains(arch):
            raise UserError(f"{arch.to_json()} is not in the search space")
        indices = [self.depth.index(arch.depth)]
        for i in range(self.num_layers):
            kept = i < arch.depth
            h = self.heads.index(arch.heads[i]) if kept else -1
            k = self.ffn.index(arch.ffn[i]) if kept else -1
            if joint:
                indices.append(h * len(self.ffn) + k if kept else -1)
            else:
                indices += [h, k]
        return np.array(indices, np.int64)

    def layer_sums(
        self, cost: Callable[[int, int], float], joint: bool = False
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from choice indices to the sum of the kept layers' costs.

        Args:
            cost: of a layer with so many heads and neurons.
            joint: whether a variable is a pair of them.

        Returns:
            From (samples, variables), as `encode` gives them, to (samples,).
        """
        table = np.array([[cost(h, k) for k in self.ffn] for h in self.heads])

        def sums(rows: np.ndarray) -> np.ndarray:
            if joint:
                costs, first = table.ravel()[rows[:, 1:]], rows[:, 1:]
            else:
                costs, first = table[rows[:, 1::2], rows[:, 2::2]], rows[:, 1::2]
            found: np.ndarray = np.where(first >= 0, costs, 0).sum(1)
            return found

        return sums

    def decode(self, indices: np.ndarray, joint: bool = False) -> Architecture:
        """Return the architecture of choice indices; those of layers not kept are ignored."""
        depth = self.depth[int(indices[0])]
        if joint:
            cells = [divmod(int(c), len(self.ffn)) for c in indices[1 : depth + 1]]
        else:
            cells = [(int(indices[1 + 2 * i]), int(indices[2 + 2 * i])) for i in range(depth)]
        heads = tuple(self.heads[h] for h, _ in cells)
        return Architecture(depth, heads, tuple(self.ffn[k] for _, k in cells))

"""A cell: a directed acyclic graph of nodes, whose edges carry one or several operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.modules import Summary
from raycomp.methods.adabert.operations import apply_operations, make_operations
from raycomp.methods.adabert.structure import cell_edges


@dataclass(frozen=True)
class EdgeExecution:
    """What runs on one edge.

    Attributes:
        name: the operation whose output the edge carries.
        others: operations that run beside it for the sake of their choice's gradient alone.
        weights: y of `name` and of `others`, which are 1 and 0; None where nothing is chosen.
    """

    name: str
    others: tuple[str, ...] = ()
    weights: Tensor | None = None


class _Chosen(torch.autograd.Function):
    """y . outputs for a one-hot y: forward the chosen output, backward also d/dy = <gradient, output>.

    The outputs that were not chosen are multiplied by 0, so their weights have no gradient, and
    they are neither added nor kept for a backward pass of their own.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, chosen: Tensor, *others: Tensor | None) -> Tensor:
        ctx.save_for_backward(chosen, *(o for o in others if o is not None))
        ctx.present = [o is not None for o in others]
        return chosen.view_as(chosen)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (chosen, *kept) = gradients, ctx.saved_tensors
        # Under bf16 a convolution's output is bf16 and that of a pool or a skip may be fp32.
        flat, present = gradient.reshape(-1).float(), iter(kept)
        products = [torch.dot(flat, chosen.reshape(-1).float())]
        for there in ctx.present:
            products.append(
                torch.dot(flat, next(present).reshape(-1).float()) if there else flat.new_zeros(())
            )
        return torch.stack(products), gradient, *([None] * len(ctx.present))


class Cell(nn.Module):
    """The weights of one cell, and the sum over its graph.

    The parent's cells hold every candidate operation on every edge; a child's cells hold one.
    """

    def __init__(
        self, width: int, nodes: int, held: Sequence[Sequence[str]], share: bool = False
    ) -> None:
        """Make the operations `held[e]` of each edge e, in the order of `cell_edges(nodes)`.

        With `share` an edge's convolutions of one dilation share their middle taps.
        """
        super().__init__()
        self.nodes = nodes
        self.graph = cell_edges(nodes)
        self.edges = nn.ModuleList(make_operations(names, width, share) for names in held)
        self.summary = Summary(width)

    def forward(self, inputs: Sequence[Tensor], mask: Tensor, paths: Sequence[EdgeExecution]) -> Tensor:
        """Map the two input states to the cell's output, each (batch, length, width).

        Args:
            inputs: c_{k-2} and c_{k-1}.
            mask: (batch, length, 1).
            paths: what runs on each edge.
        """
        states: list[Tensor] = list(inputs)
        sums: dict[int, Tensor] = {}
        nothing = torch.zeros_like(states[0])
        for source in range(self.nodes + 1):
            if source >= 2:  # every edge into this node has run
                states.append(sums.get(source, nothing))
            mine = [(e, t) for e, (s, t) in enumerate(self.graph) if s == source]
            drawn = [(paths[e].name, self._held(e, paths[e].name)) for e, _ in mine]
            outputs = apply_operations(states[source], mask, drawn)
            others = self._beside(states[source], mask, [(e, paths[e]) for e, _ in mine])
            for (e, target), output, beside in zip(mine, outputs, others, strict=True):
                weights = paths[e].weights
                if weights is not None:
                    kept = nothing if output is None else output
                    output = cast(Tensor, _Chosen.apply(weights, kept, *beside))
                if output is not None:
                    sums[target] = sums[target] + output if target in sums else output
        states.append(sums.get(self.nodes + 1, nothing))
        return cast(Tensor, self.summary(states[2:], mask))

    @torch.no_grad()
    def _beside(
        self, x: Tensor, mask: Tensor, paths: Sequence[tuple[int, EdgeExecution]]
    ) -> list[list[Tensor | None]]:
        """Return the outputs of each path's other operations, without a graph."""
        wanted = [(name, self._held(e, name)) for e, path in paths for name in path.others]
        made = iter(apply_operations(x, mask, wanted))
        return [[next(made) for _ in path.others] for _, path in paths]

    def _held(self, edge: int, name: str) -> nn.Module:
        return cast(nn.ModuleDict, self.edges[edge])[name]

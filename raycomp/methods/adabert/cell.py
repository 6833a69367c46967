"""A cell: a directed acyclic graph of nodes whose edges carry one or several operations."""

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
    """The operations that run on one edge.

    Attributes:
        name: Operation whose output the edge carries.
        others: Operations that run only because the gradient of y needs their outputs.
        weights: The entries of y^o (Eq. 6) for `name` and then for `others`, (1 + others,): one-hot,
            with the 1 first. None in a child, whose operations are fixed.
    """

    name: str
    others: tuple[str, ...] = ()
    weights: Tensor | None = None


class _SampledEdge(torch.autograd.Function):
    """The output of an edge: sum_o y_o x_o for a one-hot y and the outputs x_o of its operations.

    Forward, the sum is the sampled output. Backward, with g the gradient of the edge's output:

        d/dy_o = <g, x_o>        d/dx_sampled = g        d/dx_o = 0 for the others (their y_o is 0)

    Autograd would compute the same from the sum itself, but it would add up all outputs, and keep the
    graphs of those that 0 multiplies. An output of None is that of `zero`.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, sampled: Tensor, *others: Tensor | None) -> Tensor:
        # save_for_backward takes tensors only, so the positions of the others are kept apart.
        ctx.save_for_backward(sampled, *(x for x in others if x is not None))
        ctx.is_present = [x is not None for x in others]
        return sampled.view_as(sampled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        sampled, *saved = ctx.saved_tensors
        # Under bf16 a convolution's output is bf16, and the output of a pool or a skip may be fp32.
        flat_gradient = gradient.reshape(-1).float()

        # d/dy_o = <g, x_o>, first of the sampled operation and then of the others
        products = [torch.dot(flat_gradient, sampled.reshape(-1).float())]
        remaining = iter(saved)
        for is_present in ctx.is_present:
            if is_present:
                products.append(torch.dot(flat_gradient, next(remaining).reshape(-1).float()))
            else:
                products.append(flat_gradient.new_zeros(()))
        return torch.stack(products), gradient, *([None] * len(ctx.is_present))


class Cell(nn.Module):
    """The weights of one cell, and the sums over its graph (Figure 2 of the paper).

    The parent's cells have every candidate operation on every edge; a child's cells have one.
    """

    def __init__(
        self, width: int, nodes: int, names: Sequence[Sequence[str]], share: bool = False
    ) -> None:
        """Create the operations of each edge.

        Args:
            width: Channels of every state.
            nodes: Inner nodes.
            names: Operations of each edge, in the order of `cell_edges(nodes)`.
            share: Whether an edge's convolutions of one dilation share their middle taps.
        """
        super().__init__()
        self.nodes = nodes
        self.graph = cell_edges(nodes)
        self.edges = nn.ModuleList(make_operations(n, width, share) for n in names)
        self.summary = Summary(width)

    def forward(
        self, inputs: Sequence[Tensor], mask: Tensor, executions: Sequence[EdgeExecution]
    ) -> Tensor:
        """Map the two input states to the cell's output, each (batch, length, width).

        Args:
            inputs: Outputs c_{k-2} and c_{k-1} of the two cells before: nodes 0 and 1.
            mask: (batch, length, 1), 1 on real tokens.
            executions: Operations that run on each edge, in the order of `cell_edges`.
        """
        # A node is the sum of its incoming edges. Sources are visited in ascending order, so every edge
        # into a node has run when its own edges run.
        states: list[Tensor] = list(inputs)
        sums: dict[int, Tensor] = {}
        zeros = torch.zeros_like(states[0])
        for source in range(self.nodes + 1):
            if source >= 2:
                states.append(sums.get(source, zeros))
            for target, output in self._run_edges(source, states[source], mask, executions, zeros):
                sums[target] = sums[target] + output if target in sums else output
        states.append(sums.get(self.nodes + 1, zeros))  # the last inner node feeds no other node
        return cast(Tensor, self.summary(states[2:], mask))

    def _run_edges(
        self,
        source: int,
        state: Tensor,
        mask: Tensor,
        executions: Sequence[EdgeExecution],
        zeros: Tensor,
    ) -> list[tuple[int, Tensor]]:
        """Return (target, output) of each edge of a source; an edge without output (`zero`) is absent.

        All edges of a source read the same state, so operations of one kind run together.
        """
        outgoing = [(e, target) for e, (s, target) in enumerate(self.graph) if s == source]
        sampled = [(executions[e].name, self._operation(e, executions[e].name)) for e, _ in outgoing]
        outputs = apply_operations(state, mask, sampled)
        other_outputs = self._run_others(state, mask, [(e, executions[e]) for e, _ in outgoing])

        results: list[tuple[int, Tensor]] = []
        for (e, target), output, others in zip(outgoing, outputs, other_outputs, strict=True):
            weights = executions[e].weights
            if weights is not None:
                # `zero` gives None, but its y_o needs a gradient, so zeros take its place.
                value = zeros if output is None else output
                output = cast(Tensor, _SampledEdge.apply(weights, value, *others))
            if output is not None:
                results.append((target, output))
        return results

    @torch.no_grad()
    def _run_others(
        self, state: Tensor, mask: Tensor, executions: Sequence[tuple[int, EdgeExecution]]
    ) -> list[list[Tensor | None]]:
        """Return the outputs of each execution's `others`, without a graph."""
        operations = [(name, self._operation(e, name)) for e, run in executions for name in run.others]
        outputs = iter(apply_operations(state, mask, operations))
        return [[next(outputs) for _ in run.others] for _, run in executions]

    def _operation(self, edge: int, name: str) -> nn.Module:
        return cast(nn.ModuleDict, self.edges[edge])[name]

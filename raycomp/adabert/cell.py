"""A cell: a directed acyclic graph of nodes, whose edges carry one or several operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from raycomp.adabert.compiled import Summary
from raycomp.adabert.operations import apply_all, make
from raycomp.adabert.structure import edges

Chosen = Sequence[Sequence[tuple[str, Tensor | None]]]
"""For each edge the operations that run, each with the factor of its output (None: 1)."""


class Cell(nn.Module):
    """The weights of one cell, and the sum over its graph.

    The parent's cells hold every candidate operation on every edge; a child's cells hold one.
    """

    def __init__(self, width: int, nodes: int, held: Sequence[Sequence[str]]) -> None:
        """Make the operations `held[e]` of each edge e, in the order of `edges(nodes)`."""
        super().__init__()
        self.nodes = nodes
        self.graph = edges(nodes)
        self.edges = nn.ModuleList(
            nn.ModuleDict({name: make(name, width) for name in names}) for names in held
        )
        self.summary = Summary(width)

    def forward(self, inputs: Sequence[Tensor], mask: Tensor, chosen: Chosen) -> Tensor:
        """Map the two input states to the cell's output, each (batch, length, width).

        Args:
            inputs: c_{k-2} and c_{k-1}.
            mask: (batch, length, 1).
            chosen: what runs on each edge.
        """
        states: list[Tensor] = list(inputs)
        sums: dict[int, Tensor] = {}
        for source in range(self.nodes + 1):
            if source >= 2:  # every edge into this node has run
                states.append(sums.get(source, torch.zeros_like(states[0])))
            out = [(e, t) for e, (s, t) in enumerate(self.graph) if s == source]
            runs = [(e, t, name, factor) for e, t in out for name, factor in chosen[e]]
            wanted = [(name, self._held(e, name)) for e, _, name, _ in runs]
            made = apply_all(states[source], mask, wanted)
            for (_, target, _, factor), value in zip(runs, made, strict=True):
                if value is None:
                    continue
                part = value if factor is None else value * factor
                sums[target] = sums[target] + part if target in sums else part
        states.append(sums.get(self.nodes + 1, torch.zeros_like(states[0])))
        return cast(Tensor, self.summary(states[2:], mask))

    def _held(self, edge: int, name: str) -> nn.Module:
        return cast(nn.ModuleDict, self.edges[edge])[name]

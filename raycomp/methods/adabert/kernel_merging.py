"""Plans which convolutions of a cell run as one kernel in the compiled model.

An edge can run as soon as its source is ready. Nodes 0 and 1 are the inputs, and node L + 1 is ready
after level L, so the edges of a cell run in levels. With three inner nodes:

    level   sources   targets
      1      0, 1     2, 3, 4
      2       2         3, 4
      3       3           4

Convolutions of one level can be one kernel: it reads the sources' channels next to one another, and
writes the targets' channels next to one another. Pairs without an edge cost multiplications by 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure, cell_edges

MAX_MERGE_OVERHEAD = 1.15
"""Most multiplications of a merged kernel, as a multiple of the multiplications of its two parts."""


class KernelEdge(NamedTuple):
    """An edge whose convolution is part of a kernel.

    Attributes:
        number: Position in `cell_edges`.
        source: Node that the kernel reads for it.
        target: Node that it adds to.
    """

    number: int
    source: int
    target: int


@dataclass(frozen=True)
class Kernel:
    """One convolution that computes one or several edges.

    Attributes:
        members: Edges that it computes.
        sources: Nodes that it reads, ascending.
        targets: Nodes that it writes, ascending.
        size: Number of its taps.
        dilation: Distance between two taps, in tokens.
    """

    members: tuple[KernelEdge, ...]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    size: int
    dilation: int

    @property
    def products(self) -> int:
        """Multiplications per token, in units of the squared width."""
        return len(self.sources) * len(self.targets) * self.size


class _Merge(NamedTuple):
    """A merge of two kernels, and its multiplications relative to the two."""

    overhead: float
    first: Kernel
    second: Kernel
    merged: Kernel


def merge_convolutions(structure: Structure, one_input: bool) -> list[Kernel]:
    """Return the kernels of a cell's convolutions, level by level.

    At each level the two kernels whose merge has the least overhead are merged, again and again, until
    every further merge exceeds MAX_MERGE_OVERHEAD.

    Args:
        structure: Operations of the edges.
        one_input: Whether both inputs are the same state, as in the first cell for a task with one
            text. Edges from node 1 then read node 0, and their kernels are added.
    """
    all_kernels: list[Kernel] = []
    for level in range(1, structure.nodes + 1):
        ready = _ready_edges(structure, level, one_input)
        kernels = [_make_kernel(structure, [edge]) for edge in ready]
        while (merge := _cheapest_merge(structure, kernels)) is not None:
            kernels = [k for k in kernels if k is not merge.first and k is not merge.second]
            kernels.append(merge.merged)
        all_kernels += kernels
    return all_kernels


def _ready_edges(structure: Structure, level: int, one_input: bool) -> list[KernelEdge]:
    """Return the edges with a convolution that run at a level."""
    ready = []
    for number, (source, target) in enumerate(cell_edges(structure.nodes)):
        if max(1, source) == level and structure.operations[number] in CONVOLUTIONS:
            # With one input, nodes 0 and 1 are the same state, and node 0 is read for both.
            read = 0 if one_input and source == 1 else source
            ready.append(KernelEdge(number, read, target))
    return ready


def _cheapest_merge(structure: Structure, kernels: Sequence[Kernel]) -> _Merge | None:
    """Return the allowed merge with the least overhead, the first of equals; None if none is allowed."""
    allowed = []
    for first, second in itertools.combinations(kernels, 2):
        merged = _make_kernel(structure, [*first.members, *second.members])
        overhead = merged.products / (first.products + second.products)
        if overhead <= MAX_MERGE_OVERHEAD:
            allowed.append(_Merge(overhead, first, second, merged))
    return min(allowed, key=lambda merge: merge.overhead, default=None)


def _make_kernel(structure: Structure, members: Sequence[KernelEdge]) -> Kernel:
    """Return the smallest kernel that holds the taps of all its members."""
    forms = [CONVOLUTIONS[structure.operations[edge.number]] for edge in members]
    dilation = 2 if all(d == 2 for _, d in forms) else 1
    reach = max((size // 2) * d for size, d in forms)  # tokens on each side of the middle tap
    return Kernel(
        members=tuple(members),
        sources=tuple(sorted({edge.source for edge in members})),
        targets=tuple(sorted({edge.target for edge in members})),
        size=2 * (reach // dilation) + 1,
        dilation=dilation,
    )

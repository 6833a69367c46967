"""From a trained child to the model that is deployed: folded, merged, without dead edges.

Four rewrites, all exact in evaluation mode: normalisation goes into the convolutions, an edge of
`zero` goes, convolutions that run at the same time become one kernel where that wastes little, and
the factors of the embedding become one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.cell import Cell
from raycomp.methods.adabert.cnn_model import (
    CompiledCell,
    RaycompCnnConfig,
    RaycompCnnForSequenceClassification,
)
from raycomp.methods.adabert.operations import EPS, ReluConvNorm
from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure, cell_edges
from raycomp.methods.adabert.student import Child, StudentShape

MAX_MERGE_OVERHEAD = 1.15  # a merged kernel may multiply so many times as often as its parts


@dataclass(frozen=True)
class Kernel:
    """One convolution that does the work of several edges.

    Attributes:
        members: (edge number, source, target) of each edge.
        sources, targets: nodes it reads and writes.
        size, dilation: its taps.
    """

    members: tuple[tuple[int, int, int], ...]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    size: int
    dilation: int

    @property
    def products(self) -> int:
        """Multiply-adds a position, in units of width squared."""
        return len(self.sources) * len(self.targets) * self.size


def merge_convolutions(structure: Structure, one_input: bool) -> list[Kernel]:
    """Return the kernels of a cell's convolutions.

    Edges can run together when their sources are ready at the same time. They are merged, cheapest
    first, as long as the zeros of the merged kernel cost less than MAX_MERGE_OVERHEAD.

    Args:
        structure: what the edges are.
        one_input: both inputs are the same state (the first cell on one text): their kernels add up.
    """
    kernels: list[Kernel] = []
    graph = cell_edges(structure.nodes)
    for stage in range(1, structure.nodes + 1):
        groups: list[list[tuple[int, int, int]]] = [
            [(e, 0 if one_input and s == 1 else s, t)]
            for e, (s, t) in enumerate(graph)
            if max(1, s) == stage and structure.operations[e] in CONVOLUTIONS
        ]
        made = [_kernel(structure, g) for g in groups]
        while True:
            best: tuple[float, int, int, Kernel] | None = None
            for i in range(len(made)):
                for j in range(i + 1, len(made)):
                    both = _kernel(structure, [*made[i].members, *made[j].members])
                    ratio = both.products / (made[i].products + made[j].products)
                    if ratio <= MAX_MERGE_OVERHEAD and (best is None or ratio < best[0]):
                        best = (ratio, i, j, both)
            if best is None:
                break
            _, i, j, both = best
            made = [k for n, k in enumerate(made) if n not in (i, j)] + [both]
        kernels += made
    return kernels


def _kernel(structure: Structure, members: Sequence[tuple[int, int, int]]) -> Kernel:
    kinds = [CONVOLUTIONS[structure.operations[e]] for e, _, _ in members]
    dilation = 2 if all(d == 2 for _, d in kinds) else 1
    reach = max((k // 2) * d for k, d in kinds)
    return Kernel(
        tuple(members),
        tuple(sorted({s for _, s, _ in members})),
        tuple(sorted({t for _, _, t in members})),
        2 * (reach // dilation) + 1,
        dilation,
    )


def cell_plan(structure: Structure, kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Return the description of a compiled cell: JSON-able, see RaycompCnnConfig."""
    found: dict[str, Any] = {
        "kernels": [
            {
                "sources": list(k.sources),
                "targets": list(k.targets),
                "size": k.size,
                "dilation": k.dilation,
            }
            for k in kernels
        ]
    }
    graph = cell_edges(structure.nodes)
    for key, name in (("averages", "avg_pool_3"), ("maxima", "max_pool_3"), ("skips", "skip")):
        found[key] = [
            list(edge) for edge, o in zip(graph, structure.operations, strict=True) if o == name
        ]
    return found


def compiled_config(shape: StudentShape, structure: Structure) -> RaycompCnnConfig:
    """Return the configuration of the compiled model of a structure."""
    plans = [
        cell_plan(structure, merge_convolutions(structure, one_input=k == 0 and not shape.pair))
        for k in range(structure.layers)
    ]
    return RaycompCnnConfig(
        vocab_size=shape.vocab_size,
        width=shape.width,
        max_positions=shape.max_positions,
        pair=shape.pair,
        sep_token_id=shape.sep_token_id,
        nodes=structure.nodes,
        cells=plans,
        structure=structure.to_json(),
        pad_token_id=shape.pad_token_id,
        num_labels=shape.classes,
        exact_match=shape.exact_match,
    )


@torch.no_grad()
def compile_child(child: Child) -> RaycompCnnForSequenceClassification:
    """Return the deployed form of a child, in evaluation mode, with weights of its own."""
    shape, structure = child.shape, child.structure
    model = RaycompCnnForSequenceClassification(compiled_config(shape, structure))
    project = child.embedding.project.weight.double()
    model.word.weight.copy_(child.embedding.word.weight.double() @ project.T)
    model.position.copy_(child.embedding.position.double() @ project.T)
    if child.embedding.mark is not None:
        cast(nn.Parameter, model.mark).copy_(child.embedding.mark.double() @ project.T)
    model.norm.load_state_dict(child.embedding.norm.state_dict())
    model.head.load_state_dict(child.head.state_dict())
    for k, (target, source) in enumerate(zip(model.cells, child.cells, strict=True)):
        kernels = merge_convolutions(structure, one_input=k == 0 and not shape.pair)
        _fill(cast(CompiledCell, target), cast(Cell, source), structure, kernels, shape.width)
    return cast(RaycompCnnForSequenceClassification, model.eval())


def _fill(
    target: CompiledCell, source: Cell, structure: Structure, kernels: Sequence[Kernel], width: int
) -> None:
    """Write a cell's folded weights into its compiled form."""
    target.summary.load_state_dict(source.summary.state_dict())
    target.bias.zero_()
    for parameter, kernel in zip(target.kernels, kernels, strict=True):
        parameter.zero_()
        for edge, read, write in kernel.members:
            held = cast(nn.ModuleDict, source.edges[edge])
            conv = cast(ReluConvNorm, held[structure.operations[edge]])
            weight, bias = fold_normalisation(conv)
            target.bias[write - 2] += bias
            rows = kernel.targets.index(write) * width
            columns = kernel.sources.index(read) * width
            centre, step = kernel.size // 2, conv.dilation // kernel.dilation
            for tap in range(conv.kernel):
                at = centre + (tap - conv.kernel // 2) * step
                parameter[rows : rows + width, columns : columns + width, 0, at] += weight[:, :, 0, tap]
    target.to_channels_last()


def fold_normalisation(conv: ReluConvNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with its normalisation folded in."""
    factor = conv.scale * torch.rsqrt(conv.variance + EPS)
    return conv.taps * factor[:, None, None, None], conv.shift - conv.mean * factor


def compiled_macs(config: RaycompCnnConfig, length: int) -> int:
    """Return the multiply-adds of a compiled model on one text (or pair) of `length` tokens.

    Convolutions, pools, attentive sums and the classifier; table look-ups are free.
    """
    width, per_token = config.width, 0
    for cell in config.cells:
        for k in cell["kernels"]:
            per_token += width**2 * len(k["sources"]) * len(k["targets"]) * k["size"]
        per_token += 3 * width * (len(cell["averages"]) + len(cell["maxima"]))
        per_token += 2 * width * config.nodes
    head = 2 * width * width + width * config.num_labels
    return per_token * length + head

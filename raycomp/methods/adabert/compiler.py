"""Compiles a trained child into the model that is deployed.

Four rewrites, each exact in evaluation mode: the normalisation is folded into the convolutions, edges of
`zero` are removed, convolutions that can run at the same time become one kernel where that adds few
multiplications, and the two factors of the embedding become one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.cell import Cell
from raycomp.methods.adabert.cnn_model import (
    CompiledCell,
    RaycompCnnConfig,
    RaycompCnnForSequenceClassification,
)
from raycomp.methods.adabert.kernel_merging import Kernel, merge_convolutions
from raycomp.methods.adabert.operations import EPS, ReluConvNorm
from raycomp.methods.adabert.structure import Structure, cell_edges
from raycomp.methods.adabert.student import Child, StudentShape


def cell_plan(structure: Structure, kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Return the description of a compiled cell as JSON values, see `RaycompCnnConfig`."""
    plan: dict[str, Any] = {
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
    named_edges = list(zip(cell_edges(structure.nodes), structure.operations, strict=True))
    for key, name in (("averages", "avg_pool_3"), ("maxima", "max_pool_3"), ("skips", "skip")):
        plan[key] = [list(edge) for edge, operation in named_edges if operation == name]
    return plan


def compiled_config(shape: StudentShape, structure: Structure) -> RaycompCnnConfig:
    """Return the configuration of the compiled model of a structure."""
    plans = [
        cell_plan(structure, _cell_kernels(shape, structure, number))
        for number in range(structure.layers)
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
    """Return the deployed form of a child, in evaluation mode, with its own copy of the weights.

    Its logits equal those of the child in evaluation mode up to rounding.
    """
    shape, structure = child.shape, child.structure
    model = RaycompCnnForSequenceClassification(compiled_config(shape, structure))

    # Embedding: table @ projection is one table. The products are computed in fp64 and rounded once.
    project = child.embedding.project.weight.double()
    model.word.weight.copy_(child.embedding.word.weight.double() @ project.T)
    model.position.copy_(child.embedding.position.double() @ project.T)
    if child.embedding.mark is not None:
        exact_match = cast(nn.Parameter, model.exact_match)
        exact_match.copy_(child.embedding.mark.double() @ project.T)

    # Everything behind the embedding is copied; the cells' kernels are folded and merged.
    model.norm.load_state_dict(child.embedding.norm.state_dict())
    model.head.load_state_dict(child.head.state_dict())
    for number, (compiled, cell) in enumerate(zip(model.cells, child.cells, strict=True)):
        kernels = _cell_kernels(shape, structure, number)
        _copy_weights(cast(CompiledCell, compiled), cast(Cell, cell), structure, kernels, shape.width)
    return cast(RaycompCnnForSequenceClassification, model.eval())


def _cell_kernels(shape: StudentShape, structure: Structure, number: int) -> list[Kernel]:
    # One text goes into both inputs of the first cell; later cells read two different states.
    return merge_convolutions(structure, one_input=number == 0 and not shape.pair)


def _copy_weights(
    compiled: CompiledCell, cell: Cell, structure: Structure, kernels: Sequence[Kernel], width: int
) -> None:
    """Write a cell's folded weights into its compiled form.

    A kernel has the shape (targets * width, sources * width, 1, size). Each edge fills one block of
    (width, width) channels; a block without an edge stays 0. Sources 0 and 1, targets 2 and 3:

                    source 0   source 1
        target 2  [  0 -> 2  |          ]
        target 3  [  0 -> 3  |  1 -> 3  ]

    Within a block, the taps of a smaller convolution surround the middle tap of the kernel, and a
    dilated convolution skips every second tap. In a kernel of size 7 and dilation 1:

        position       0  1  2  3  4  5  6
        std_conv_3     .  .  a  b  c  .  .      stride 1
        dil_conv_3     .  a  .  b  .  c  .      stride 2

    An edge's tap number t thus has the position middle + (t - edge middle) * stride.
    """
    compiled.summary.load_state_dict(cell.summary.state_dict())
    compiled.bias.zero_()
    for parameter, kernel in zip(compiled.kernels, kernels, strict=True):
        parameter.zero_()
        for edge in kernel.members:
            operations = cast(nn.ModuleDict, cell.edges[edge.number])
            conv = cast(ReluConvNorm, operations[structure.operations[edge.number]])
            weight, bias = fold_normalisation(conv)
            compiled.bias[edge.target - 2] += bias  # nodes 0 and 1 are inputs

            row = kernel.targets.index(edge.target) * width
            column = kernel.sources.index(edge.source) * width
            block = parameter[row : row + width, column : column + width, 0]  # a view
            stride = conv.dilation // kernel.dilation
            for tap in range(conv.kernel):
                position = kernel.size // 2 + (tap - conv.kernel // 2) * stride
                # Added, not set: with one input, the edges from nodes 0 and 1 share a block.
                block[:, :, position] += weight[:, :, 0, tap]
    compiled.to_channels_last()


def fold_normalisation(conv: ReluConvNorm) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a convolution that includes its normalisation.

    scale * (W x - mean) / sqrt(variance + eps) + shift  =  (f W) x + (shift - f mean),
    with f = scale / sqrt(variance + eps), one factor per output channel.
    """
    factor = conv.scale * torch.rsqrt(conv.variance + EPS)
    return conv.taps * factor[:, None, None, None], conv.shift - conv.mean * factor


def compiled_macs(config: RaycompCnnConfig, length: int) -> int:
    """Return the multiply-adds of a compiled model on one text or pair of `length` tokens.

    Convolutions, pools, attentive sums and the classifier count; table look-ups do not.
    """
    width = config.width
    per_token = 0
    for cell in config.cells:
        for k in cell["kernels"]:
            per_token += width**2 * len(k["sources"]) * len(k["targets"]) * k["size"]
        per_token += 3 * width * (len(cell["averages"]) + len(cell["maxima"]))  # a pool reads 3 tokens
        per_token += 2 * width * config.nodes  # score and weighted sum of each inner node
    head = 2 * width * width + width * config.num_labels
    return per_token * length + head

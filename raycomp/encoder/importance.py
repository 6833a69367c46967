"""Importance of heads and neurons, and the reordering that puts the most important ones in front.

After DynaBERT (Hou et al. 2020, Section 2.1). The importance of a head is |dL/dmask| for a mask of ones
on its output. That of a neuron is |sum of w dL/dw| over its weights. After the reordering, front slices
contain the most important heads and neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.interface import TokenBatch
from raycomp.encoder.layers import Layer

B = TypeVar("B", bound=TokenBatch)


@dataclass(frozen=True)
class Importance:
    """Importance of each head and neuron; larger is more important.

    Attributes:
        heads: (heads,) for each layer.
        neurons: (ffn,) for each layer.
    """

    heads: list[Tensor]
    neurons: list[Tensor]


def measure_importance(
    model: ElasticEncoder, batches: Iterable[B], loss: Callable[[Tensor, B], Tensor]
) -> Importance:
    """Measure importance over batches. The network's weights stay as they are; it is put into eval mode.

    Args:
        model: The fine-tuned network at full size.
        batches: Labelled batches.
        loss: Function from logits (batch, classes) and the batch to a scalar.
    """
    model.eval()
    layers = [cast(Layer, layer) for layer in model.layers]
    head_scores = [torch.zeros(layer.heads) for layer in layers]
    neuron_scores = [torch.zeros(layer.ffn) for layer in layers]
    for batch in batches:
        masks = [torch.ones(layer.heads, requires_grad=True) for layer in layers]
        # Masks of ones leave the output as it is; their gradients are the heads' importance.
        scalar = loss(model(batch, head_masks=masks).logits, batch)
        # One backward pass for all layers: gradients of every mask, then of every FFN's weights.
        ffn_weights = [w for layer in layers if layer.ffn for w in _ffn_weights(layer)]
        used_masks = [mask for mask in masks if len(mask)]
        gradients = iter(torch.autograd.grad(scalar, [*used_masks, *ffn_weights]))

        for scores in head_scores:
            if len(scores):
                scores += next(gradients).abs()
        for layer, scores in zip(layers, neuron_scores, strict=True):
            if layer.ffn:
                up, bias, down = (next(gradients) for _ in range(3))
                # First-order change of the loss if the neuron's weights were 0.
                change = (layer.up.weight * up).sum(1) + layer.up.bias * bias
                change = change + (layer.down.weight * down).sum(0)
                scores += change.detach().abs()
    return Importance(head_scores, neuron_scores)


def _ffn_weights(layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    return layer.up.weight, layer.up.bias, layer.down.weight


@torch.no_grad()
def reorder_by_importance(model: ElasticEncoder, importance: Importance) -> None:
    """Permute heads and neurons in place, most important first; the function is unchanged."""
    for i, module in enumerate(model.layers):
        layer = cast(Layer, module)
        if layer.heads:
            order = importance.heads[i].argsort(descending=True, stable=True)
            # Each head is `head_size` rows of query, key and value, and as many columns of the output.
            size = layer.head_size
            rows = (order[:, None] * size + torch.arange(size)).reshape(-1)
            for linear in (layer.query, layer.key, layer.value):
                linear.weight.copy_(linear.weight[rows])
                linear.bias.copy_(linear.bias[rows])
            layer.output.weight.copy_(layer.output.weight[:, rows])

        if layer.ffn:
            order = importance.neurons[i].argsort(descending=True, stable=True)
            layer.up.weight.copy_(layer.up.weight[order])
            layer.up.bias.copy_(layer.up.bias[order])
            layer.down.weight.copy_(layer.down.weight[:, order])

"""Importance of heads and neurons, and the reorder that puts the important ones in front.

After DynaBERT (Hou et al. 2020): a head's importance is |dL/dmask| of a mask of ones on its output,
a neuron's is |sum of w dL/dw| over its weights. Front slices then keep what matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from raycomp.encoder.elastic import ElasticEncoder, TokenBatch
from raycomp.encoder.layers import Layer

B = TypeVar("B", bound=TokenBatch)


@dataclass(frozen=True)
class Importance:
    """One tensor per layer: heads (heads,), neurons (ffn,)."""

    heads: list[Tensor]
    neurons: list[Tensor]


def measure_importance(
    model: ElasticEncoder, batches: Iterable[B], loss: Callable[[Tensor, B], Tensor]
) -> Importance:
    """Measure importance over batches; the network is left as it was, in eval mode.

    Args:
        model: the fine-tuned network at full size.
        batches: labelled batches.
        loss: from logits (batch, classes) and the batch to a scalar.
    """
    model.eval()
    layers = [cast(Layer, layer) for layer in model.layers]
    heads = [torch.zeros(layer.heads) for layer in layers]
    neurons = [torch.zeros(layer.up.out_features) for layer in layers]
    wanted = [layer.up.weight for layer in layers] + [layer.up.bias for layer in layers]
    wanted += [layer.down.weight for layer in layers]
    for batch in batches:
        masks = [torch.ones(layer.heads, requires_grad=True) for layer in layers]
        model.masks_heads = masks
        try:
            value = loss(model(batch, None).logits, batch)
        finally:
            model.masks_heads = None
        grads = torch.autograd.grad(value, [*masks, *wanted])
        n = len(layers)
        for i, layer in enumerate(layers):
            heads[i] += grads[i].abs()
            up, bias, down = grads[n + i], grads[2 * n + i], grads[3 * n + i]
            through = (layer.up.weight * up).sum(1) + layer.up.bias * bias
            neurons[i] += (through + (layer.down.weight * down).sum(0)).detach().abs()
    return Importance(heads, neurons)


@torch.no_grad()
def reorder_by_importance(model: ElasticEncoder, importance: Importance) -> None:
    """Permute heads and neurons in place, most important first; the function is unchanged."""
    for i, module in enumerate(model.layers):
        layer = cast(Layer, module)
        size = layer.head_size
        order = importance.heads[i].argsort(descending=True, stable=True)
        rows = (order[:, None] * size + torch.arange(size)).reshape(-1)
        for linear in (layer.query, layer.key, layer.value):
            linear.weight.copy_(linear.weight[rows])
            linear.bias.copy_(linear.bias[rows])
        layer.output.weight.copy_(layer.output.weight[:, rows])
        order = importance.neurons[i].argsort(descending=True, stable=True)
        layer.up.weight.copy_(layer.up.weight[order])
        layer.up.bias.copy_(layer.up.bias[order])
        layer.down.weight.copy_(layer.down.weight[:, order])

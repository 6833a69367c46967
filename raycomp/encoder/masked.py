"""A forward pass with a factor on every head, neuron, attention and FFN: what pruning methods read.

A factor of a whole attention or FFN mixes the half layer with its input. At 0 it is skipped with its
LayerNorm, as in an architecture with 0 heads or 0 neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.half_layers import sliced_attention
from raycomp.encoder.interface import ElasticOutput, TokenBatch
from raycomp.encoder.layers import Layer, dropout
from raycomp.encoder.slicing import AUTOGRAD_SLICES


@dataclass(frozen=True)
class Masks:
    """Factors of the parts of an encoder.

    Attributes:
        heads: (heads,) for each layer.
        neurons: (ffn,) for each layer.
        attention: Factor of each layer's attention, (layers,); None is 1 everywhere.
        ffn: Factor of each layer's FFN, (layers,); None is 1 everywhere.
    """

    heads: list[Tensor]
    neurons: list[Tensor]
    attention: Tensor | None = None
    ffn: Tensor | None = None


def run_masked(model: ElasticEncoder, batch: TokenBatch, masks: Masks) -> ElasticOutput:
    """Run the whole network with factors on its parts; the output has the hidden states.

    Args:
        model: The network.
        batch: As for `ElasticEncoder.forward`.
        masks: The factors. With ones everywhere, the numbers are those of the plain forward pass.
    """
    x = model.embed(batch)
    mask = batch.attention_mask[:, None, None, :]
    states = [x]

    for i, module in enumerate(model.layers):
        layer = cast(Layer, module)
        attended, _ = sliced_attention(
            layer,
            x,
            mask,
            layer.heads,
            AUTOGRAD_SLICES,
            first_only=False,
            training=model.training,
            head_mask=masks.heads[i],
        )
        x = _mix(attended, x, masks.attention, i)
        x = _mix(_feed_forward(layer, x, masks.neurons[i], model.training), x, masks.ffn, i)
        states.append(x)

    logits = model.compute_logits(x)

    return ElasticOutput(logits, tuple(states), model.largest.layer_indices)


def _feed_forward(layer: Layer, x: Tensor, neurons: Tensor, training: bool) -> Tensor:
    """Return the FFN of a layer with a factor on each neuron, (batch, length, hidden)."""
    if not layer.ffn:
        return x
    y = layer.down(layer.act(layer.up(x)) * neurons)
    return cast(Tensor, layer.output_norm(x + dropout(y, layer.hidden_dropout, training)))


def _mix(output: Tensor, own_input: Tensor, factors: Tensor | None, layer: int) -> Tensor:
    """Return the half layer's output, mixed with its input by its factor."""
    if factors is None:
        return output
    return own_input + factors[layer] * (output - own_input)

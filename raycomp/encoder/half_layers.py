"""The two halves of a Transformer layer, attention and FFN, on a front slice of their weights.

A half of width 0 is skipped: its output is its input, without LayerNorm.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.interface import AttentionStates
from raycomp.encoder.layers import Layer, attend, dropout
from raycomp.encoder.slicing import SliceReader, front_columns, front_rows


class HalfLayer(NamedTuple):
    """One attention or FFN of an architecture: a step of the path that its tokens take.

    Attributes:
        layer: Index of the layer in the full network.
        is_attention: Whether it is the layer's attention; otherwise it is the FFN.
        width: Number of heads or neurons.
        is_last: Whether the layer is the architecture's last.
    """

    layer: int
    is_attention: bool
    width: int
    is_last: bool


def half_layers(arch: Architecture) -> tuple[HalfLayer, ...]:
    """Return the attention and the FFN of every layer of an architecture, in order."""
    path: list[HalfLayer] = []
    for layer, heads, ffn in zip(arch.layer_indices, arch.heads, arch.ffn, strict=True):
        is_last = layer == arch.layer_indices[-1]
        path.append(HalfLayer(layer, True, heads, is_last))
        path.append(HalfLayer(layer, False, ffn, is_last))
    return tuple(path)


def sliced_attention(
    layer: Layer,
    x: Tensor,
    mask: Tensor,
    heads: int,
    slices: SliceReader,
    *,
    first_only: bool,
    training: bool,
    head_mask: Tensor | None = None,
) -> tuple[Tensor, AttentionStates | None]:
    """Run a layer's attention with its first `heads` heads.

    Args:
        layer: The full layer.
        x: (batch, length, hidden).
        mask: True on real tokens, (batch, 1, 1, length).
        heads: Number of heads; 0 skips the attention.
        slices: Reader of the weights.
        first_only: Compute the first token only. The classifier reads no other token, so the last layer
            does not compute them unless hidden states are asked for.
        training: Whether dropout is on.
        head_mask: Factors of the heads' outputs, (heads,).

    Returns:
        The output, (batch, length, hidden) or (batch, 1, hidden), and the attention's states.
    """
    # Keys and values are computed for all tokens: the first one attends to them.
    queried = x[:, :1] if first_only else x
    if heads == 0:
        return queried, None
    inner = heads * layer.head_size

    def split_heads(linear: nn.Linear, y: Tensor) -> Tensor:
        weight = slices.read(linear.weight, front_rows(linear.weight, inner))
        bias = slices.read(linear.bias, front_rows(linear.bias, inner))
        return F.linear(y, weight, bias).view(*y.shape[:2], heads, layer.head_size).transpose(1, 2)

    query = split_heads(layer.query, queried)
    key = split_heads(layer.key, x)
    value = split_heads(layer.value, x)
    attended = attend(query, key, value, mask, layer.attention_dropout if training else 0.0)
    if head_mask is not None:
        attended = attended * head_mask.view(1, -1, 1, 1)

    # The biases of both outputs belong to the residual stream: they are never sliced.
    attended = attended.transpose(1, 2).reshape(*queried.shape[:2], inner)
    weight = slices.read(layer.output.weight, front_columns(inner))
    attended = F.linear(attended, weight, layer.output.bias)
    attended = dropout(attended, layer.hidden_dropout, training)
    y = cast(Tensor, layer.attention_norm(queried + attended))
    return y, AttentionStates(query, key, value)


def sliced_feed_forward(
    layer: Layer, x: Tensor, ffn: int, slices: SliceReader, *, training: bool
) -> Tensor:
    """Run a layer's FFN with its first `ffn` neurons; the output has the shape of x.

    Args:
        layer: The full layer.
        x: (batch, length, hidden).
        ffn: Number of neurons; 0 skips the FFN.
        slices: Reader of the weights.
        training: Whether dropout is on.
    """
    if ffn == 0:
        return x

    up = slices.read(layer.up.weight, front_rows(layer.up.weight, ffn))
    up_bias = slices.read(layer.up.bias, front_rows(layer.up.bias, ffn))
    down = slices.read(layer.down.weight, front_columns(ffn))
    y = layer.act(F.linear(x, up, up_bias))
    y = F.linear(y, down, layer.down.bias)
    return cast(Tensor, layer.output_norm(x + dropout(y, layer.hidden_dropout, training)))

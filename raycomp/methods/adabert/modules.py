"""Building blocks that the compiled CNN and the search share; they need torch only.

This file is self-contained: it is copied next to `modeling_raycomp_cnn.py` into every exported folder.

States are (batch, length, width) and masks (batch, length, 1), 1 on real tokens. A state is 0 where its
mask is 0, so a short text in a long batch gives the same outputs as the text in a batch of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def split_inputs(
    ids: Tensor, mask: Tensor, pair: bool, sep: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the texts of the two input nodes of the first cell, as (ids, mask) twice.

    One text goes into both nodes. A pair "first SEP second SEP" is split: each text starts at position
    0, and columns that neither text needs are removed.

    Args:
        ids: (batch, length) tokens.
        mask: (batch, length), true on real tokens.
        pair: Whether a row has two texts.
        sep: Token that ends the first text; it stays with the first text.
    """
    if not pair:
        return (ids, mask), (ids, mask)
    is_sep = ((ids == sep) & mask).long()
    seps_before = is_sep.cumsum(1) - is_sep
    first_mask = mask & (seps_before == 0)
    in_second = mask & (seps_before > 0)

    # Move the second text of each row to the left by the length of the first.
    offset = first_mask.sum(1, keepdim=True)
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    second_ids = ids.gather(1, (positions + offset).clamp(max=ids.shape[1] - 1))
    second_mask = positions < in_second.sum(1, keepdim=True)

    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        # A trace would keep the length of its example, and a model must serve texts of any length.
        longest = ids.shape[1]
    else:
        longest = max(1, int((first_mask | second_mask).sum(1).max()))
    first = (ids[:, :longest], first_mask[:, :longest])
    second = (second_ids[:, :longest], second_mask[:, :longest])
    return first, second


def exact_matches(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], sep: int
) -> tuple[Tensor, Tensor]:
    """Return for each text which of its tokens occur in the other text, each (batch, length) bool.

    Args:
        first: (ids, mask) of the first text, each (batch, length).
        second: (ids, mask) of the second text, of the same shape.
        sep: Token that ends a text; it never counts as a match.
    """
    first_ids, first_mask = first
    second_ids, second_mask = second
    first_tokens = (first_mask & (first_ids != sep)).unsqueeze(2)
    equal = first_ids.unsqueeze(2) == second_ids.unsqueeze(1)  # (batch, first length, second length)
    equal = equal & first_tokens & second_mask.unsqueeze(1)
    return equal.any(2), equal.any(1)


def shift_both_ways(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left and the right neighbour of each position, 0 beyond the ends; shapes as `x`."""
    return F.pad(x[:, :-1], (0, 0, 1, 0)), F.pad(x[:, 1:], (0, 0, 0, 1))


def average_pool(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens among a position and its two neighbours.

    Args:
        x: States, (batch, length, width).
        mask: 1 for real tokens, 0 for padding, (batch, length, 1).

    Returns:
        (batch, length, width), 0 for padding.
    """
    left, right = shift_both_ways(x)
    left_mask, right_mask = shift_both_ways(mask)
    return (left + x + right) / (left_mask + mask + right_mask).clamp(min=1) * mask


def max_pool(x: Tensor, mask: Tensor) -> Tensor:
    """Return the largest value over the real tokens among a position and its two neighbours.

    Args:
        x: As for `average_pool`.
        mask: As for `average_pool`.

    Returns:
        (batch, length, width), 0 for padding.
    """
    real_only = x.masked_fill(mask == 0, float("-inf"))
    end = torch.full_like(real_only[:, :1], float("-inf"))
    left = torch.cat([end, real_only[:, :-1]], 1)
    right = torch.cat([real_only[:, 1:], end], 1)
    return torch.maximum(torch.maximum(left, real_only), right).masked_fill(mask == 0, 0.0)


def convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Return a SAME convolution of (batch, length, in) with (out, in, 1, size): (batch, length, out)."""
    # A 2-D convolution of height 1 over channels-last memory, which is the layout of the states: a 1-D
    # convolution would copy them.
    padding = (weight.shape[-1] // 2) * dilation
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight, padding=(0, padding), dilation=(1, dilation))
    return y.squeeze(2).transpose(1, 2)


def attentive_sum(nodes: list[Tensor], query: Tensor) -> Tensor:
    """Return the attentive sum over a cell's inner nodes at each position, (batch, length, width).

    Args:
        nodes: States of the inner nodes, each (batch, length, width).
        query: Learned query, (width,).
    """
    # One score per node and position: how well the state fits the learned query. Not `node @ query`:
    # ONNX Runtime 1.32 merges the transposition of a convolution's output into a product with a vector,
    # and computes another one.
    scores = torch.stack([(node * query).sum(-1) for node in nodes]) * query.shape[0] ** -0.5
    shares = torch.softmax(scores, 0).unsqueeze(-1)
    total = nodes[0] * shares[0]
    for node, share in zip(nodes[1:], shares[1:], strict=True):
        total = torch.addcmul(total, node, share)
    return total


class Summary(nn.Module):
    """The output of a cell: the attentive sum of its inner nodes, normalised at each position.

    The normalisation is an addition to the paper. Without it, skips and sums multiply the size of the
    states in every cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: list[Tensor], mask: Tensor, padded: bool = True) -> Tensor:
        """Map the inner nodes to the output, each (batch, length, width).

        Args:
            nodes: States of the inner nodes.
            mask: (batch, length, 1), 1 on real tokens.
            padded: Whether the mask has zeros.
        """
        output = self.norm(attentive_sum(nodes, self.query))
        return output * mask if padded else output


def pool_states(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean and the maximum over real tokens, joined: (batch, 2 * width)."""
    mean = x.sum(1) / mask.sum(1).clamp(min=1)
    return torch.cat([mean, x.masked_fill(mask == 0, float("-inf")).amax(1)], 1)


class Head(nn.Module):
    """The classifier: pooled state, one hidden layer, logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, pooled: Tensor, dropout: float = 0.0) -> Tensor:
        """Map (batch, 2 * width) to (batch, classes); `dropout` is a probability."""
        hidden = torch.relu(self.dense(F.dropout(pooled, dropout, dropout > 0)))
        return self.out(F.dropout(hidden, dropout, dropout > 0))

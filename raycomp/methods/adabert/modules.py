"""What a compiled CNN is made of, and its search space with it: torch alone.

This file is self-contained: it is copied beside `modeling_raycomp_cnn.py` into every exported folder.

States are (batch, length, width); masks are (batch, length, 1), 1 on real tokens. A state is 0 where
its mask is 0, so SAME padding of a short text in a long batch reads what it would read alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def split_inputs(
    ids: Tensor, mask: Tensor, pair: bool, sep: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what the two input nodes of the first cell read: (ids, mask) twice.

    One text goes into both. A pair "first SEP second SEP" is split, both texts begin at position 0,
    and columns that neither needs are left out.

    Args:
        ids: (batch, length) tokens.
        mask: (batch, length), true on real tokens.
        pair: two texts.
        sep: the token that ends the first text; it stays with the first.
    """
    if not pair:
        return (ids, mask), (ids, mask)
    is_sep = ((ids == sep) & mask).long()
    before = is_sep.cumsum(1) - is_sep
    first, second = mask & (before == 0), mask & (before > 0)
    start = first.sum(1, keepdim=True)
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    moved = ids.gather(1, (positions + start).clamp(max=ids.shape[1] - 1))
    there = positions < second.sum(1, keepdim=True)
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        longest = ids.shape[1]  # what is fixed in a trace must serve texts of any length
    else:
        longest = max(1, int((first | there).sum(1).max()))
    return (ids[:, :longest], first[:, :longest]), (moved[:, :longest], there[:, :longest])


def exact_matches(
    one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], sep: int
) -> tuple[Tensor, Tensor]:
    """Return which tokens of each text the other has too, each (batch, length) bool.

    Args:
        one, two: (ids, mask) of the two texts, each (batch, length), of one length.
        sep: the token that ends a text, which is no word.
    """
    (ids, real), (others, there) = one, two
    mine = (real & (ids != sep)).unsqueeze(2)
    same = (ids.unsqueeze(2) == others.unsqueeze(1)) & mine & there.unsqueeze(1)
    return same.any(2), same.any(1)


def neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return each position's left and right neighbour, 0 beyond the ends: (batch, length, width)."""
    return F.pad(x[:, :-1], (0, 0, 1, 0)), F.pad(x[:, 1:], (0, 0, 0, 1))


def average_pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens among a position and its two neighbours."""
    left, right = neighbours(x)
    before, after = neighbours(mask)
    return (left + x + right) / (before + mask + after).clamp(min=1) * mask


def max_pool(x: Tensor, mask: Tensor) -> Tensor:
    """Largest value over the real tokens among a position and its two neighbours."""
    outside = x.masked_fill(mask == 0, float("-inf"))
    edge = torch.full_like(outside[:, :1], float("-inf"))
    left = torch.cat([edge, outside[:, :-1]], 1)
    right = torch.cat([outside[:, 1:], edge], 1)
    return torch.maximum(torch.maximum(left, outside), right).masked_fill(mask == 0, 0.0)


def convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """SAME convolution of (batch, length, in) by (out, in, 1, size) to (batch, length, out).

    As a 2-D convolution over channels-last memory: the layout of the states already is that.
    """
    pad = (weight.shape[-1] // 2) * dilation
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight, padding=(0, pad), dilation=(1, dilation))
    return y.squeeze(2).transpose(1, 2)


def attentive_sum(nodes: list[Tensor], query: Tensor) -> Tensor:
    """Attentive sum over a cell's inner nodes, at each position: (batch, length, width)."""
    scores = torch.stack([node @ query for node in nodes]) * query.shape[0] ** -0.5
    shares = torch.softmax(scores, 0).unsqueeze(-1)
    found = nodes[0] * shares[0]
    for node, share in zip(nodes[1:], shares[1:], strict=True):
        found = torch.addcmul(found, node, share)
    return found


class Summary(nn.Module):
    """A cell's output: the attentive sum of its inner nodes, normalised at each position.

    Without the normalisation skips and sums let states grow by a factor a cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: list[Tensor], mask: Tensor, padded: bool = True) -> Tensor:
        """Map the inner nodes to the output, each (batch, length, width); `padded`: the mask has 0s."""
        found = self.norm(attentive_sum(nodes, self.query))
        return found * mask if padded else found


def pool_states(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum over real tokens, side by side: (batch, 2 * width)."""
    mean = x.sum(1) / mask.sum(1).clamp(min=1)
    return torch.cat([mean, x.masked_fill(mask == 0, float("-inf")).amax(1)], 1)


class Head(nn.Module):
    """Pooled state -> hidden layer -> logits."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, pooled: Tensor, dropout: float = 0.0) -> Tensor:
        """Map (batch, 2 * width) to (batch, classes)."""
        hidden = torch.relu(self.dense(F.dropout(pooled, dropout, dropout > 0)))
        return self.out(F.dropout(hidden, dropout, dropout > 0))

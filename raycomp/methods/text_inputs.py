"""Inputs of small text models: the texts of a row, and the features of a pair.

This file needs torch only: it is copied next to the code of every exported model that imports it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_texts(ids: Tensor, mask: Tensor, pair: bool, sep: int) -> list[tuple[Tensor, Tensor]]:
    """Return (ids, mask) of each text of a row; each text starts at position 0.

    Args:
        ids: (batch, length) tokens.
        mask: (batch, length), True on real tokens.
        pair: Whether a row has two texts.
        sep: Token that ends the first text; it stays with the first text.
    """
    if not pair:
        return [(ids, mask)]

    is_sep = ((ids == sep) & mask).long()
    seps_before = is_sep.cumsum(1) - is_sep
    first_mask = mask & (seps_before == 0)

    # The second text moves to the left by the length of the first.
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    offset = first_mask.sum(1, keepdim=True)
    second_ids = ids.gather(1, (positions + offset).clamp(max=ids.shape[1] - 1))
    second_mask = positions < (mask & (seps_before > 0)).sum(1, keepdim=True)

    return [(ids, first_mask), (second_ids, second_mask)]


def join_texts(vectors: list[Tensor]) -> Tensor:
    """Return the vector of one text, or [u, v, |u - v|, u v] of a pair, (batch, features)."""
    if len(vectors) == 1:
        return vectors[0]
    first, second = vectors
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)

"""Principal components of a table of vectors, which several methods cut to fewer columns."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_components(table: Tensor, width: int) -> Tensor:
    """Return the coordinates of a table's rows on its first principal components, (rows, width).

    Args:
        table: (rows, own width).
        width: Number of components, at most the own width.
    """
    # The mean of all tokens tells texts apart in nothing.
    centred = table - table.mean(0)
    if width >= table.shape[1]:
        return centred.contiguous()
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())
    return (centred.double() @ vectors[:, -width:].flip(1)).float().contiguous()

"""Size and FLOPs of structures, and the efficiency loss (Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raycomp.methods.adabert.structure import CONVOLUTIONS

# name -> divisors of parameters and of multiply-adds before the softmax over the operations.
SCALES: dict[str, tuple[float, float]] = {
    "released": (1e6, 1e8),  # .09 to .11: presses on K alone
    "spread": (1e5, 1e7),  # .05 to .19: the author's later code
}


def operation_params(name: str, width: int) -> int:
    """Return the parameters of an operation: the convolution and its normalisation."""
    if name not in CONVOLUTIONS:
        return 0
    return width * width * CONVOLUTIONS[name][0] + 2 * width


def operation_macs(name: str, width: int, length: int) -> int:
    """Return the multiply-adds of an operation on one text."""
    if name in CONVOLUTIONS:
        return width * width * CONVOLUTIONS[name][0] * length
    return 3 * width * length if "pool" in name else 0


def operation_costs(names: Sequence[str], width: int, length: int, scale: str) -> Tensor:
    """Return the normalised SIZE + FLOPs of each operation: (operations,).

    Each is a softmax over the operations of the raw figure over a divisor, and the two are averaged.
    """
    by_size, by_macs = SCALES[scale]
    sizes = torch.tensor([operation_params(n, width) / by_size for n in names])
    macs = torch.tensor([operation_macs(n, width, length) / by_macs for n in names])
    return (torch.softmax(sizes, 0) + torch.softmax(macs, 0)) / 2


def efficiency_loss(layers: Tensor, operations: Tensor, op_costs: Tensor) -> Tensor:
    """Eq. 5: K / K_max times the sum over the edges of their operation's price.

    Args:
        layers: (K_max,) y^K.
        operations: (edges, candidates) y^o.
        op_costs: (candidates,) of `operation_costs`.
    """
    depth = torch.arange(1, len(layers) + 1, device=layers.device, dtype=layers.dtype)
    return (layers * depth).sum() / len(layers) * (operations @ op_costs.to(operations)).sum()

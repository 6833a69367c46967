"""Size and FLOPs of operations, and the efficiency loss (Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure
from raycomp.training.step_cost import TRAINING_PASSES

# Normalisation -> divisors of parameters and of multiply-adds, before the softmax over the operations.
COST_DIVISORS: dict[str, tuple[float, float]] = {
    # Costs of .09 to .11: all operations cost about the same, so the loss reduces K only.
    "released": (1e6, 1e8),
    # Costs of .05 to .19, as in later code of the same author.
    "spread": (1e5, 1e7),
}


def operation_params(name: str, width: int) -> int:
    """Return the parameters of an operation: its convolution and its normalisation."""
    if name not in CONVOLUTIONS:
        return 0
    kernel, _ = CONVOLUTIONS[name]
    return width * width * kernel + 2 * width


def operation_macs(name: str, width: int, length: int) -> int:
    """Return the multiply-adds of an operation on one text of `length` tokens."""
    if name in CONVOLUTIONS:
        kernel, _ = CONVOLUTIONS[name]
        return width * width * kernel * length
    # A pool reads three tokens for each output; `skip` and `zero` compute nothing.
    return 3 * width * length if "pool" in name else 0


def operation_costs(names: Sequence[str], width: int, length: int, scale: str) -> Tensor:
    """Return SIZE + FLOPs of each operation (Eq. 5), normalised, (operations,); the sum is 1.

    Each of the two figures is divided and goes through a softmax over the operations; a cost is the
    mean of both.

    Args:
        names: Candidate operations.
        width: Channels of every state.
        length: Tokens of a text.
        scale: Key of COST_DIVISORS.
    """
    params_divisor, macs_divisor = COST_DIVISORS[scale]
    sizes = torch.tensor([operation_params(n, width) / params_divisor for n in names])
    macs = torch.tensor([operation_macs(n, width, length) / macs_divisor for n in names])
    return (torch.softmax(sizes, 0) + torch.softmax(macs, 0)) / 2


def training_flops(
    structure: Structure,
    width: int,
    candidates: Sequence[str] = (),
    estimator: str = "sampled",
    passes: int = TRAINING_PASSES,
) -> float:
    """Return the FLOPs of a training step, per token of text.

    Args:
        structure: Structure that is trained.
        width: Channels of every state.
        candidates: Operations of each edge in a search; none in the training of a child.
        estimator: Operations that run for the gradient of P_alpha, see `estimators.plan_edges`.
        passes: Cost of a trained operation in forward passes; 2 where its weights have no gradient.
    """
    macs = {name: operation_macs(name, width, 1) for name in (*candidates, *structure.operations)}
    convolutions = [macs[name] for name in candidates if name in CONVOLUTIONS]
    others = sum(macs[name] for name in candidates if name not in CONVOLUTIONS)

    # The others run forward only. "contrast" draws one convolution of them, here the mean.
    extra = 0.0
    if estimator == "contrast" and convolutions:
        extra = others + sum(convolutions) / len(convolutions)
    elif estimator == "full":
        extra = others + sum(convolutions)
    cell = sum(passes * macs[name] + extra for name in structure.operations)
    return 2.0 * structure.layers * cell


def efficiency_loss(layers: Tensor, operations: Tensor, op_costs: Tensor) -> Tensor:
    """Return L_E of Eq. 5: K / K_max times the sum over the edges of their operation's cost, a scalar.

    Args:
        layers: y^K, (K_max,).
        operations: y^o, (edges, candidates).
        op_costs: Result of `operation_costs`, (candidates,).
    """
    depths = torch.arange(1, len(layers) + 1, device=layers.device, dtype=layers.dtype)
    relative_depth = (layers * depths).sum() / len(layers)  # K / K_max, K = sum_k k y^K_k
    return relative_depth * (operations @ op_costs.to(operations)).sum()  # Eq. 5

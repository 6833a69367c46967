"""Size and FLOPs of operations, and the efficiency loss (Eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.methods.adabert.structure import CONVOLUTIONS, Structure
from raycomp.methods.adabert.student import Parent, Student
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
    student: Student,
    structure: Structure,
    batch: Batch,
    estimator: str = "sampled",
    *,
    trains_weights: bool = True,
) -> float:
    """Return the FLOPs of a training step over the global batch of all workers.

    Matrix products and pools count, as in `encoder/cost.py`: the projection of the embeddings for each
    token, and probes and classifiers for each row.

    Args:
        student: Network that is trained: a child, or the parent in a search.
        structure: Structure that runs.
        batch: Rows of this worker, which knows rows and tokens of the global batch.
        estimator: Operations that run for the gradient of P_alpha, see `estimators.plan_edges`.
        trains_weights: Whether the step computes gradients of weights, and not of P_alpha only.
    """
    shape = student.shape
    candidates = student.candidates if isinstance(student, Parent) else ()
    macs = {name: operation_macs(name, shape.width, 1) for name in (*candidates, *structure.operations)}
    passes = TRAINING_PASSES if trains_weights else TRAINING_PASSES - 1

    # Operations that were not sampled run forward only.
    forward = sum(_unsampled_macs(name, candidates, macs, estimator) for name in structure.operations)
    sampled = sum(macs[name] for name in structure.operations)

    depth = len(student.cells) if estimator == "full" else structure.layers
    cells = structure.layers * (passes * sampled + forward)
    # The cells below the sampled depth run for their loss only.
    cells += (depth - structure.layers) * (sampled + forward)

    # Without gradients of weights, nothing before the first cell has one.
    projection = (passes if trains_weights else 1) * shape.embedding_size * shape.width

    probe = 2 * shape.width * shape.classes
    head = 2 * shape.width * shape.width + shape.width * shape.classes
    # A search classifies after each cell, and a child after its last one.
    num_heads = depth if candidates else 1
    per_row = passes * (depth * probe + num_heads * head)
    return 2.0 * (batch.total_tokens * (cells + projection) + batch.total * per_row)


def _unsampled_macs(
    name: str, candidates: Sequence[str], macs: Mapping[str, int], estimator: str
) -> float:
    """Return the multiply-adds per token of the operations that run on an edge next to the sampled one.

    Args:
        name: The sampled operation.
        candidates: Operations of the edge; none in a child.
        macs: Multiply-adds of each operation per token.
        estimator: "full", "sampled" or "contrast".
    """
    if estimator == "sampled":
        return 0.0
    convolutions = [macs[other] for other in candidates if other != name and other in CONVOLUTIONS]
    others = sum(macs[other] for other in candidates if other != name and other not in CONVOLUTIONS)
    if estimator == "full" or not convolutions:
        return float(others + sum(convolutions))
    # "contrast" draws one convolution of them, here the mean.
    return others + sum(convolutions) / len(convolutions)


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

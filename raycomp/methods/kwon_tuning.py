"""Mask tuning of Kwon et al.: the remaining heads and neurons are scaled by least squares.

Layer by layer, the scales x of a half layer minimise

    |sum_j x_j c_j - (target - residual)|^2 + damp^2 |x - 1|^2

where c_j is the output of unit j, and target is the state (before the LayerNorm) of a network that is
pruned less. The scales are multiplied into the weights. Scales beyond 10 in size end the tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Layer, attend

LARGEST_SCALE = 10.0

LayerMasks = tuple[Sequence[Tensor], Sequence[Tensor]]
"""For each layer, which heads and which neurons remain."""


@dataclass
class _States:
    """States of one batch: of the pruned network and of the target network, (batch, length, hidden)."""

    batch: Batch
    own: Tensor
    target: Tensor


@torch.no_grad()
def tune_masks(
    model: ElasticEncoder,
    batches: Sequence[Batch],
    masks: LayerMasks,
    target_masks: LayerMasks,
    damp: float,
) -> None:
    """Scale the outputs of the remaining heads and neurons, in place.

    Args:
        model: The network at full size.
        batches: Training text.
        masks: Remaining units of the pruned network.
        target_masks: Remaining units of the network that is pruned less.
        damp: Weight that keeps scales near 1.
    """
    states = []

    for batch in batches:
        x = model.embed(batch)
        states.append(_States(batch, x, x))

    last = len(model.layers) - 1
    is_tuned = True

    for i, module in enumerate(model.layers):
        layer = cast(Layer, module)
        # The heads of the first layer have the same input in both networks, and are not scaled.
        is_tuned &= _advance(states, layer, _Heads(layer), masks[0][i], target_masks[0][i], damp,
                             solve=is_tuned and i > 0, first_only=False)  # fmt: skip
        # The classifier reads only the first token of the last layer.
        is_tuned &= _advance(states, layer, _Neurons(layer), masks[1][i], target_masks[1][i], damp,
                             solve=is_tuned, first_only=i == last)  # fmt: skip


class _Heads:
    """The outputs of a layer's heads, before the residual connection."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.linear = layer.output
        self.norm = layer.attention_norm
        self.size = layer.head_size

    def features(self, x: Tensor, batch: Batch) -> Tensor:
        """Return the input of the output projection, (batch, length, inner)."""
        layer = self.layer

        def split_heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], layer.heads, layer.head_size).transpose(1, 2)

        query, key, value = (split_heads(m(x)) for m in (layer.query, layer.key, layer.value))
        mask = batch.attention_mask[:, None, None, :]
        attended = attend(query, key, value, mask, 0.0)
        return attended.transpose(1, 2).reshape(*x.shape[:2], -1)


class _Neurons:
    """The outputs of a layer's neurons, before the residual connection."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.linear = layer.down
        self.norm = layer.output_norm
        self.size = 1

    def features(self, x: Tensor, batch: Batch) -> Tensor:
        """Return the activations of the neurons, (batch, length, ffn)."""
        return self.layer.act(self.layer.up(x))


def _advance(
    states: Sequence[_States],
    layer: Layer,
    half: _Heads | _Neurons,
    mask: Tensor,
    target_mask: Tensor,
    damp: float,
    *,
    solve: bool,
    first_only: bool,
) -> bool:
    """Tune one half layer, and put the states of both networks through it.

    Returns:
        Whether the tuning can continue: all scales are small enough.
    """
    device = half.linear.weight.device
    columns = mask.to(device).float().repeat_interleave(half.size)
    target_columns = target_mask.to(device).float().repeat_interleave(half.size)
    weight = half.linear.weight.clone()
    targets = [
        _pass(state.target, half, weight * target_columns, state.batch, bool(target_mask.any()))
        for state in states
    ]
    if not mask.any():
        # The half layer is skipped: its output is its input.
        for state, (target, _) in zip(states, targets, strict=True):
            state.target = target
        return True

    is_small = True
    if solve and target_mask.any():
        scales = solve_scales(states, half, mask, [sums for _, sums in targets], damp, first_only)
        is_small = bool((scales.abs() <= LARGEST_SCALE).all())
        if is_small:
            # Pruned units keep the factor 1: their weights are removed later.
            full = torch.ones(len(mask), device=device)
            full[mask.to(device)] = scales
            half.linear.weight.mul_(full.repeat_interleave(half.size))
            weight_of_own = half.linear.weight * columns
        else:
            weight_of_own = weight * columns
    else:
        weight_of_own = weight * columns

    for state, (target, _) in zip(states, targets, strict=True):
        state.own, _ = _pass(state.own, half, weight_of_own, state.batch, True)
        state.target = target

    return is_small


def _pass(
    x: Tensor, half: _Heads | _Neurons, weight: Tensor, batch: Batch, is_present: bool
) -> tuple[Tensor, Tensor]:
    """Return the output of a half layer, and its state before the LayerNorm."""
    if not is_present:
        return x, x
    sums = x + F.linear(half.features(x, batch), weight, half.linear.bias)
    return half.norm(sums), sums


def solve_scales(
    states: Sequence[_States],
    half: _Heads | _Neurons,
    mask: Tensor,
    targets: Sequence[Tensor],
    damp: float,
    first_only: bool,
) -> Tensor:
    """Return the scales of the remaining units, (units,), by the normal equations.

    Args:
        states: States of both networks before the half layer.
        half: The half layer.
        mask: Remaining units.
        targets: State of the target network in each batch, before its LayerNorm.
        damp: Weight that keeps scales near 1.
        first_only: Whether only the first token of each text counts.
    """
    units = int(mask.sum())
    device = half.linear.weight.device
    # In fp64: the normal equations square the condition of the problem.
    columns = mask.to(device).repeat_interleave(half.size)
    weight = half.linear.weight[:, columns].double()
    products = weight.T @ weight
    gram = torch.zeros(units, units, dtype=torch.float64, device=device)
    moment = torch.zeros(units, dtype=torch.float64, device=device)

    for state, target in zip(states, targets, strict=True):
        is_real = state.batch.attention_mask.clone()
        if first_only:
            is_real[:, 1:] = False
        features = half.features(state.own, state.batch)[is_real][:, columns].double()
        residual = (target - state.own - half.linear.bias)[is_real].double()
        # c_j of a unit is its features times its columns of the weight.
        gram += _sum_blocks((features.T @ features) * products, half.size)
        moment += (features * (residual @ weight)).sum(0).view(units, half.size).sum(1)

    ones = torch.ones(units, dtype=torch.float64, device=device)
    identity = torch.eye(units, dtype=torch.float64, device=device)
    # Small also without damping: the system stays solvable.
    ridge = damp**2 + 1e-8 * float(gram.diagonal().mean())
    change = torch.linalg.solve(gram + ridge * identity, moment - gram @ ones)

    return (ones + change).float()


def _sum_blocks(matrix: Tensor, size: int) -> Tensor:
    """Return the sums of square blocks of a matrix."""
    units = matrix.shape[0] // size
    return matrix.view(units, size, units, size).sum((1, 3))

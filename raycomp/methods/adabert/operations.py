"""The candidate operations of a cell's edges (Section 2.5.1); padding does not change their outputs.

States are (batch, length, width), 0 where the mask (batch, length, 1) is 0.

Source: AdaBERT (Chen et al., 2020), Section 2.5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.modules import average_pool, convolve, max_pool
from raycomp.methods.adabert.structure import CONVOLUTIONS

MOMENTUM = 0.1
"""Weight of a batch in the running statistics."""

EPS = 1e-5
"""Added to a variance before its square root."""


class ReluConvNorm(nn.Module):
    """The weights of ReLU, convolution and batch normalisation over real tokens.

    `run_convolutions` computes one or several of these modules.

    Attributes:
        kernel: Number of taps.
        dilation: Distance between two taps, in tokens.
        weight: (width, width, 1, kernel); absent if the taps are those of a wider convolution.
        scale: Scale of the normalisation, (width,).
        shift: Shift of the normalisation, (width,).
        mean: Running mean, (width,).
        variance: Running variance, (width,).
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, kernel: int, dilation: int, wide: ReluConvNorm | None = None) -> None:
        """Create a convolution with its own kernel, or with the middle taps of `wide`."""
        super().__init__()
        self.kernel = kernel
        self.dilation = dilation
        # In a tuple, because nn.Module would register a module as a child, with its weights.
        self._wide = () if wide is None else (wide,)
        if wide is None:
            bound = (3.0 / (width * kernel)) ** 0.5  # the variance is 1 / fan-in
            weight = torch.empty(width, width, 1, kernel).uniform_(-bound, bound)
            self.weight = nn.Parameter(weight)
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    @property
    def taps(self) -> Tensor:
        """The kernel, (width, width, 1, kernel): the own weight, or a view of the wider one."""
        for wide in self._wide:
            margin = (wide.kernel - self.kernel) // 2
            return wide.weight[..., margin : margin + self.kernel]
        return self.weight


def run_convolutions(x: Tensor, mask: Tensor, group: Sequence[ReluConvNorm]) -> list[Tensor]:
    """Run convolutions of one kind that read the same node as one kernel.

    The outputs equal those of separate runs, because each channel is normalised by itself.

    Args:
        x: ReLU of the node, (batch, length, width).
        mask: (batch, length, 1), 1 on real tokens.
        group: Convolutions with the same kernel size and dilation.

    Returns:
        The normalised output of each convolution, (batch, length, width).
    """
    first = group[0]
    weight = first.taps
    scale: Tensor = first.scale
    shift: Tensor = first.shift
    if len(group) > 1:
        weight = torch.cat([conv.taps for conv in group])
        scale = torch.cat([conv.scale for conv in group])
        shift = torch.cat([conv.shift for conv in group])
    y = convolve(x, weight, first.dilation)

    if first.training:
        out, mean, variance = cast(tuple[Tensor, ...], _Normalise.apply(y, mask, scale, shift))
        _update_statistics(group, mean, variance)
    else:
        mean = torch.cat([conv.mean for conv in group])
        variance = torch.cat([conv.variance for conv in group])
        factor = scale * torch.rsqrt(variance + EPS)
        out = (y * factor + (shift - mean * factor)) * mask
    return list(out.split(len(first.scale), -1))


class _Normalise(torch.autograd.Function):
    """Batch normalisation over real tokens. It saves one copy of its input; autograd would save two.

    In each channel, over N real tokens, with s = sqrt(variance + eps), x = (y - mean) / s and the
    gradient g of the output:

        out    = scale x + shift
        dy     = scale / s * (g - sum(g) / N - x sum(g x) / N)
        dscale = sum(g x)
        dshift = sum(g)
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, mask: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and the variance of the real tokens, each (channels,)."""
        count = mask.sum().clamp(min=1)  # N
        y32 = y.float()
        mean = (y32 * mask).sum((0, 1)) / count
        variance = (y32 - mean).square_().mul_(mask).sum((0, 1)) / count
        inverse = torch.rsqrt(variance + EPS)  # 1 / s
        factor = scale * inverse
        out = (y * factor).add_(shift - mean * factor).mul_(mask)
        ctx.save_for_backward(y, mask, scale, mean, inverse, count)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of y, scale and shift; None for the mask."""
        y, mask, scale, mean, inverse, count = ctx.saved_tensors
        gradient = gradients[0].float() * mask
        normalised = (y.float() - mean).mul_(inverse)
        shift_gradient = gradient.sum((0, 1))
        scale_gradient = (gradient * normalised).sum((0, 1))

        # dy, computed in the memory of g
        gradient.sub_(shift_gradient / count).sub_(normalised.mul_(scale_gradient / count))
        gradient.mul_(mask * (scale * inverse))
        return gradient.to(y.dtype), None, scale_gradient, shift_gradient


@torch.no_grad()
def _update_statistics(group: Sequence[ReluConvNorm], mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics of each convolution towards those of the batch."""
    width = len(group[0].scale)
    for i, conv in enumerate(group):
        channels = slice(i * width, (i + 1) * width)
        conv.mean.lerp_(mean[channels].to(conv.mean.dtype), MOMENTUM)
        conv.variance.lerp_(variance[channels].to(conv.mean.dtype), MOMENTUM)


def make_operations(names: Sequence[str], width: int, share: bool) -> nn.ModuleDict:
    """Return the weights of an edge's operations by name; an operation without weights is empty.

    Args:
        names: Operations of the edge.
        width: Channels of every state.
        share: Whether convolutions of one dilation share taps: a narrower one then has the middle taps
            of the widest.
    """
    operations: dict[str, nn.Module] = {name: nn.Module() for name in names}
    widest: dict[int, ReluConvNorm] = {}
    # Widest first, because a narrower one takes its taps from the widest.
    for name in sorted(set(names) & set(CONVOLUTIONS), key=lambda n: (-CONVOLUTIONS[n][0], n)):
        kernel, dilation = CONVOLUTIONS[name]
        conv = ReluConvNorm(width, kernel, dilation, widest.get(dilation) if share else None)
        widest.setdefault(dilation, conv)
        operations[name] = conv
    return nn.ModuleDict(operations)


def apply_operations(
    x: Tensor, mask: Tensor, operations: Sequence[tuple[str, nn.Module]]
) -> list[Tensor | None]:
    """Apply operations that read the same node.

    ReLU and pools are computed once, and convolutions of one kind run as one kernel.

    Args:
        x: State of the node, (batch, length, width).
        mask: (batch, length, 1), 1 on real tokens.
        operations: Name and weights of each operation.

    Returns:
        The output of each operation, (batch, length, width); None for `zero`.
    """
    positions_by_name: dict[str, list[int]] = {}
    for i, (name, _) in enumerate(operations):
        positions_by_name.setdefault(name, []).append(i)
    relu = torch.relu(x) if any(name in CONVOLUTIONS for name in positions_by_name) else x

    outputs: list[Tensor | None] = [None] * len(operations)
    for name, positions in positions_by_name.items():
        if name == "zero":
            continue
        if name in CONVOLUTIONS:
            group = [cast(ReluConvNorm, operations[i][1]) for i in positions]
            results = run_convolutions(relu, mask, group)
        elif name == "avg_pool_3":
            results = [average_pool(x, mask)] * len(positions)
        elif name == "max_pool_3":
            results = [max_pool(x, mask)] * len(positions)
        else:
            results = [x] * len(positions)  # skip
        for i, output in zip(positions, results, strict=True):
            outputs[i] = output
    return outputs

"""The candidate operations of a cell's edges (Section 2.5.1), respecting masks.

States are (batch, length, width), 0 where the mask (batch, length, 1) is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from raycomp.methods.adabert.modules import average_pool, convolve, max_pool
from raycomp.methods.adabert.structure import CONVOLUTIONS

MOMENTUM = 0.1
EPS = 1e-5


class ReluConvNorm(nn.Module):
    """ReLU -> convolution -> batch normalisation over real tokens.

    Attributes:
        weight: (width, width, 1, kernel); absent where the taps are those of a wider convolution.
        scale, shift: (width,) of the normalisation.
        mean, variance: (width,) running statistics.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, kernel: int, dilation: int, wide: ReluConvNorm | None = None) -> None:
        """Make a convolution with weights of its own, or one that is the middle taps of `wide`."""
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self._wide = () if wide is None else (wide,)  # a tuple: no module of this one
        if wide is None:
            bound = (3.0 / (width * kernel)) ** 0.5  # variance 1 / fan-in
            weight = torch.empty(width, width, 1, kernel).uniform_(-bound, bound)
            self.weight = nn.Parameter(weight)
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    @property
    def taps(self) -> Tensor:
        """The kernel: (width, width, 1, kernel)."""
        for wide in self._wide:
            margin = (wide.kernel - self.kernel) // 2
            return wide.weight[..., margin : margin + self.kernel]
        return self.weight


def run_convolutions(x: Tensor, mask: Tensor, group: Sequence[ReluConvNorm]) -> list[Tensor]:
    """Run convolutions of one kind that read one node as one kernel, and normalise each output.

    Exact, because normalisation is per channel.

    Args:
        x: the node after ReLU.
        mask: real tokens.
        group: convolutions with the same kernel and dilation.
    """
    first = group[0]
    weight = first.taps
    scale: Tensor = first.scale
    shift: Tensor = first.shift
    if len(group) > 1:
        weight = torch.cat([m.taps for m in group])
        scale = torch.cat([m.scale for m in group])
        shift = torch.cat([m.shift for m in group])
    y = convolve(x, weight, first.dilation)
    if first.training:
        out, mean, variance = cast(tuple[Tensor, ...], _Normalise.apply(y, mask, scale, shift))
        _remember(group, mean, variance)
    else:
        mean = torch.cat([m.mean for m in group])
        variance = torch.cat([m.variance for m in group])
        factor = scale * torch.rsqrt(variance + EPS)
        out = (y * factor + (shift - mean * factor)) * mask
    return list(out.split(len(first.scale), -1))


class _Normalise(torch.autograd.Function):
    """Batch normalisation over real tokens; keeps its input alone, where autograd would keep two copies.

    With x = (y - mean) / deviation and g the gradient, over N real tokens, in each channel:
    dy = scale / deviation * (g - sum(g) / N - x * sum(g * x) / N); dscale = sum(g * x); dshift = sum(g).
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, mask: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the mean and the variance of the real tokens."""
        count = mask.sum().clamp(min=1)
        y32 = y.float()
        mean = (y32 * mask).sum((0, 1)) / count
        variance = (y32 - mean).square_().mul_(mask).sum((0, 1)) / count
        inverse = torch.rsqrt(variance + EPS)
        factor = scale * inverse
        out = (y * factor).add_(shift - mean * factor).mul_(mask)
        ctx.save_for_backward(y, mask, scale, mean, inverse, count)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of y, scale and shift."""
        y, mask, scale, mean, inverse, count = ctx.saved_tensors
        gradient = gradients[0].float() * mask
        normal = (y.float() - mean).mul_(inverse)
        shift_gradient = gradient.sum((0, 1))
        scale_gradient = (gradient * normal).sum((0, 1))
        gradient.sub_(shift_gradient / count).sub_(normal.mul_(scale_gradient / count))
        gradient.mul_(mask * (scale * inverse))
        return gradient.to(y.dtype), None, scale_gradient, shift_gradient


@torch.no_grad()
def _remember(group: Sequence[ReluConvNorm], mean: Tensor, variance: Tensor) -> None:
    width = len(group[0].scale)
    for i, module in enumerate(group):
        part = slice(i * width, (i + 1) * width)
        module.mean.lerp_(mean[part].to(module.mean.dtype), MOMENTUM)
        module.variance.lerp_(variance[part].to(module.mean.dtype), MOMENTUM)


def make_operations(names: Sequence[str], width: int, share: bool) -> nn.ModuleDict:
    """Return the weights of an edge's operations; one without weights is an empty module.

    Args:
        names: the operations.
        width: channels.
        share: convolutions of one dilation share taps: the narrower are the middle of the widest.
    """
    found: dict[str, nn.Module] = {name: nn.Module() for name in names}
    widest: dict[int, ReluConvNorm] = {}
    for name in sorted(set(names) & set(CONVOLUTIONS), key=lambda n: (-CONVOLUTIONS[n][0], n)):
        kernel, dilation = CONVOLUTIONS[name]
        made = ReluConvNorm(width, kernel, dilation, widest.get(dilation) if share else None)
        widest.setdefault(dilation, made)
        found[name] = made
    return nn.ModuleDict(found)


def apply_operations(
    x: Tensor, mask: Tensor, wanted: Sequence[tuple[str, nn.Module]]
) -> list[Tensor | None]:
    """Apply operations that read the same node; None for `zero`.

    ReLU is computed once, convolutions of one kind are one kernel, a pool is computed once.

    Args:
        x: the node.
        mask: real tokens.
        wanted: (name, weights) of each.
    """
    found: list[Tensor | None] = [None] * len(wanted)
    kinds: dict[str, list[int]] = {}
    for i, (name, _) in enumerate(wanted):
        kinds.setdefault(name, []).append(i)
    positive = torch.relu(x) if any(name in CONVOLUTIONS for name in kinds) else x
    for name, where in kinds.items():
        if name in CONVOLUTIONS:
            modules = [wanted[i][1] for i in where]
            outputs: Sequence[Tensor | None] = run_convolutions(positive, mask, modules)  # type: ignore[arg-type]
        elif name == "zero":
            continue
        else:
            same = {"avg_pool_3": average_pool, "max_pool_3": max_pool}.get(name)
            made = x if same is None else same(x, mask)
            outputs = [made] * len(where)
        for i, output in zip(where, outputs, strict=True):
            found[i] = output
    return found

"""Rounding of products as in INT8 inference, while a network trains ("fake quantisation").

Source: Jacob et al., 2018, arXiv:1712.05877, Section 3. The grids are those of ONNX Runtime's dynamic
quantisation: weights are symmetric with a scale for each output, inputs have the range of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEVELS = 255
"""Steps between the smallest and the largest value of an input, in 8 bits."""

LARGEST_WEIGHT = 127

REDUCED_LARGEST_WEIGHT = 64
"""Largest weight in 7 bits, which CPUs need whose sums of 8-bit products overflow."""


class Int8Rounding(TorchFunctionMode):
    """While active, every `F.linear` rounds its weight and its input to the grids of INT8.

    Such a product is computed in fp32, also under autocast, and its result is in fp32.
    The gradient passes a rounding unchanged (straight-through estimator). Products of two activations, as
    in attention, are not rounded: the exported files keep them in fp32.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> with Int8Rounding():
        ...     rounded = layer(torch.ones(3, 4))
    """

    def __init__(self, *, reduce_range: bool = False) -> None:
        """Choose the grid.

        Args:
            reduce_range: Whether weights have 7 bits, as in files for CPUs without 8-bit dot products.
        """
        super().__init__()
        self._largest = REDUCED_LARGEST_WEIGHT if reduce_range else LARGEST_WEIGHT

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, `F.linear` with rounded arguments."""
        kwargs = kwargs or {}
        if func is not F.linear:
            return func(*args, **kwargs)
        x, weight, *bias = args
        # Autocast would convert both operands to bf16, whose 8 significant bits cannot hold the grids.
        with torch.autocast(x.device.type, enabled=False):
            return func(round_input(x), round_weight(weight, self._largest), *bias, **kwargs)


def round_weight(weight: Tensor, largest: int = LARGEST_WEIGHT) -> Tensor:
    """Return a weight (outputs, inputs) whose rows have 2 `largest` + 1 values around 0, in fp32."""
    weight = weight.float()
    scale = weight.detach().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / largest
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -largest, largest)


def round_input(x: Tensor) -> Tensor:
    """Return an activation of any shape with 256 values from its smallest to its largest, in fp32."""
    x = x.float()
    values = x.detach()
    # The range contains 0, which padding and zeros then keep exactly.
    lowest = values.amin().clamp(max=0.0)
    highest = values.amax().clamp(min=0.0)
    scale = ((highest - lowest) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-lowest / scale).round().clamp(0, LEVELS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, LEVELS)

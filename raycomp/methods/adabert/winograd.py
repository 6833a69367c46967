"""Convolution along a text with fewer multiplications, on a CPU (the Toom-Cook or Winograd method).

This file is self-contained: it is copied next to `modeling_raycomp_cnn.py` into every exported folder.

F(m, r) computes m outputs of a filter of r taps with n = m + r - 1 multiplications in place of m * r.
Here every number is a vector of channels, so each multiplication is a product of matrices; for five taps
there are 2.5 times fewer. The rest are additions, written as products with the small matrices of
`transform_matrices`.

Source: Lavin and Gray, 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Taps -> (outputs of a tile, points of the polynomials); infinity is one more point. Four outputs of
# seven taps would have ten times the error of the direct form; the plans here have 1.4 to 3.1 times
# (benchmarks/convolution.py).
TILE_PLANS: dict[int, tuple[int, tuple[float, ...]]] = {
    3: (4, (0.0, 1.0, -1.0, 2.0, -2.0)),
    5: (4, (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)),
    7: (2, (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)),
}
MIN_TOKENS = 32
"""Fewest tokens of a batch for which the transforms cost less than they save."""


def can_use_winograd(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Return whether `convolve_relu` may replace the direct form: in fp32 inference on a CPU.

    Gradients, autocast, tracing and compilation need the direct form.
    """
    return (
        dilation == 1
        and weight.shape[-1] in TILE_PLANS
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[0] * x.shape[1] >= MIN_TOKENS
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


@cache
def transform_matrices(taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices G of the kernel, B of the input and A of the output, in fp64.

    The m outputs y of n inputs d and a kernel g of r taps are y = A ((G g) * (B d)), with n = m + r - 1.
    This is the transpose of the product of two polynomials, computed from their values at n points: A
    and G evaluate at these points, B interpolates.

    Returns:
        G (n, r), B (n, n) and A (m, n).
    """
    outputs, points = TILE_PLANS[taps]
    n = outputs + taps - 1

    def evaluation(columns: int) -> Tensor:
        powers = torch.tensor([[p**j for j in range(columns)] for p in points], dtype=torch.float64)
        infinity = torch.zeros(1, columns, dtype=torch.float64)
        infinity[0, -1] = 1.0  # the value at infinity is the leading coefficient
        return torch.cat([powers, infinity])

    interpolation = torch.linalg.inv(evaluation(n)).T
    # B loses the most precision, because it transforms in fp32. Its rows are scaled to a largest entry
    # of 1, and G takes the factors, which it applies in fp64.
    largest = interpolation.abs().amax(1, keepdim=True)
    return evaluation(taps) * largest, interpolation / largest, evaluation(outputs).T


@cache
def _fp32_matrices(taps: int) -> tuple[Tensor, Tensor]:
    """Return B and A of `transform_matrices` in fp32."""
    # The cache outlives a call in inference mode, and a tensor of that mode cannot be used outside of it.
    with torch.inference_mode(False):
        _, input_matrix, output_matrix = transform_matrices(taps)
        return input_matrix.float(), output_matrix.float()


def transform_kernel(weight: Tensor) -> Tensor:
    """Map a kernel (out, in, 1, taps) to its transformed form G g, (n, in, out) in fp32."""
    kernel_matrix, _, _ = transform_matrices(weight.shape[-1])
    kernel = weight.detach()[:, :, 0].double()
    return torch.einsum("nr,oir->nio", kernel_matrix, kernel).float().contiguous()


class TransformedKernel:
    """The cached transformed form of one kernel, computed again after the kernel changes.

    The cache is neither saved nor copied with the model. It does not notice a write to `kernel.data`
    that leaves the first weight as it was.
    """

    def __init__(self) -> None:
        self._key: tuple[int, int, float] | None = None
        self._transformed = torch.empty(0)

    def of(self, kernel: Tensor) -> Tensor:
        """Return the transformed form (n, in, out) of a kernel (out, in, 1, taps)."""
        # A write to `.data` does not change the version, and freed memory is used again, so the key also
        # has a weight. It has one weight only: reading each of them would miss the CPU's cache.
        first_weight = kernel.detach()[0, 0, 0, 0].item()
        key = (kernel.data_ptr(), kernel._version, first_weight)
        if key != self._key:
            self._key = key
            self._transformed = transform_kernel(kernel)
        return self._transformed

    def __reduce__(self) -> tuple[type[TransformedKernel], tuple[()]]:
        """Pickle and copy as an empty cache."""
        return TransformedKernel, ()


def convolve_relu(sources: list[Tensor], transformed: Tensor, taps: int) -> Tensor:
    """Return a SAME convolution of the ReLU of `sources`, joined by channels.

    Args:
        sources: States, each (batch, length, width).
        transformed: Result of `transform_kernel`, (n, width of all sources, out).
        taps: Taps of the kernel.

    Returns:
        (batch, length, out); its rows are not contiguous in memory.
    """
    input_matrix, output_matrix = _fp32_matrices(taps)
    outputs, n = output_matrix.shape
    batch, length, width = sources[0].shape
    channels = width * len(sources)
    padding = taps // 2

    # All texts are written one after another, each as a whole number of tiles, then tiles of zeros:
    #
    #     0 0 | text 1 . . . 0 0 0 | text 2 . . . 0 0 0 | ...        padding, then `stride` rows per text
    #
    # The zeros after one text are also the padding before the next, and no tile that has an output of
    # one text reads a number of another.
    stride = (-(-length // outputs) - (-padding // outputs)) * outputs
    tiles = batch * stride // outputs
    flat = sources[0].new_empty((batch * stride + n - outputs) * channels)
    flat[: padding * channels] = flat[-padding * channels :] = 0.0
    gaps = (batch, (stride - length) * channels)
    flat.as_strided(gaps, (stride * channels, 1), (padding + length) * channels).zero_()
    for i, x in enumerate(sources):
        texts = flat.as_strided(
            (batch, length, width),
            (stride * channels, channels, 1),
            padding * channels + i * width,
        )
        torch.clamp_min(x, 0.0, out=texts)

    overlapping = flat.as_strided((tiles, n, channels), (outputs * channels, channels, 1))
    points = torch.bmm(input_matrix.expand(tiles, n, n), overlapping)  # B d
    products = torch.bmm(points.transpose(0, 1), transformed)  # (G g) * (B d)
    y = torch.bmm(output_matrix.expand(tiles, outputs, n), products.transpose(0, 1))  # A (...)
    return y.view(batch, stride, -1)[:, :length]

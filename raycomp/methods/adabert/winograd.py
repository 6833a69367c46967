"""Convolution along a text with fewer products, on a processor (Toom-Cook's, known as Winograd's).

This file is self-contained: it is copied beside `modeling_raycomp_cnn.py` into every exported folder.

F(m, r) makes m outputs of a filter of r taps by m + r - 1 products of numbers in place of m * r. Here
every number is a vector of channels, so each product is one of matrices: 2.5 times fewer for five taps.
What is left is adding up, forth and back, by small matrices that are worked out below from a few points.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Taps -> outputs of a tile, and the points of the polynomials; infinity comes on top. Four outputs of
# seven taps would be ten times as imprecise as the direct form; these are 1.4 to 3.1 times
# (benchmarks/convolution.py).
TILE_PLANS: dict[int, tuple[int, tuple[float, ...]]] = {
    3: (4, (0.0, 1.0, -1.0, 2.0, -2.0)),
    5: (4, (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)),
    7: (2, (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)),
}
MIN_TOKENS = 32  # for fewer the transforms cost more than they save


def can_use_winograd(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Return whether `convolve_relu` may stand in for the direct form: fp32 inference on a processor.

    Not where gradients are wanted, under autocast, or where the model is traced or compiled.
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
    """Return the matrices of kernel (n, taps), input (n, n) and output (m, n), in fp64; n = m + taps - 1.

    Outputs y of inputs d and kernel g are y = A ((G g) * (B d)). By transposition of the product of two
    polynomials, which is worked out at n points: A and G evaluate there, B interpolates.
    """
    outputs, points = TILE_PLANS[taps]
    n = outputs + taps - 1

    def evaluate(columns: int) -> Tensor:
        powers = torch.tensor([[p**j for j in range(columns)] for p in points], dtype=torch.float64)
        infinity = torch.zeros(1, columns, dtype=torch.float64)
        infinity[0, -1] = 1.0
        return torch.cat([powers, infinity])

    back = torch.linalg.inv(evaluate(n)).T
    largest = back.abs().amax(1, keepdim=True)  # even out: the input is where precision is lost
    return evaluate(taps) * largest, back / largest, evaluate(outputs).T


@cache
def _matrices(taps: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        _, forth, back = transform_matrices(taps)
        return forth.float(), back.float()


def transform_kernel(weight: Tensor) -> Tensor:
    """Map a kernel (out, in, 1, taps) to its transformed form (n, in, out), fp32."""
    forth, _, _ = transform_matrices(weight.shape[-1])
    kernel = weight.detach()[:, :, 0].double()
    return torch.einsum("nr,oir->nio", forth, kernel).float().contiguous()


class TransformedKernel:
    """A kernel's transformed form: made when first asked for, and again when the kernel was changed.

    It is not saved, nor copied, with the model that holds it. A write to `kernel.data` that leaves its
    first weight as it was goes unseen.
    """

    def __init__(self) -> None:
        self._key: tuple[int, int, float] | None = None
        self._held = torch.empty(0)

    def of(self, kernel: Tensor) -> Tensor:
        """Return the form of a kernel (out, in, 1, taps): (n, in, out)."""
        # Writes to `.data` count no version, and memory is used again: so a glance at the numbers. At one
        # alone, for each is a miss of the cache.
        glance = kernel.detach()[0, 0, 0, 0].item()
        key = (kernel.data_ptr(), kernel._version, glance)
        if key != self._key:
            self._key, self._held = key, transform_kernel(kernel)
        return self._held

    def __reduce__(self) -> tuple[type[TransformedKernel], tuple[()]]:
        return TransformedKernel, ()


def convolve_relu(sources: list[Tensor], transformed: Tensor, taps: int) -> Tensor:
    """SAME convolution of the positive parts of `sources`, side by side.

    Args:
        sources: states, each (batch, length, width).
        transformed: of the kernel, (n, width of all, out), from `transform`.
        taps: of the kernel.

    Returns:
        (batch, length, out), rows not next to one another in memory.
    """
    forth, back = _matrices(taps)
    m, n = back.shape
    batch, length, width = sources[0].shape
    every, pad = width * len(sources), taps // 2
    # One text after another, each a whole number of tiles, then whole tiles of zeros: what is right of
    # one text is left of the next, and no tile with an output of one reads a number of the other.
    stride = (-(-length // m) - (-pad // m)) * m
    tiles = batch * stride // m
    flat = sources[0].new_empty((batch * stride + n - m) * every)
    flat[: pad * every] = flat[-pad * every :] = 0.0
    between = (batch, (stride - length) * every)
    flat.as_strided(between, (stride * every, 1), (pad + length) * every).zero_()
    for i, x in enumerate(sources):
        place = flat.as_strided(
            (batch, length, width), (stride * every, every, 1), pad * every + i * width
        )
        torch.clamp_min(x, 0.0, out=place)
    read = flat.as_strided((tiles, n, every), (m * every, every, 1))  # tiles overlap by taps - 1
    points = torch.bmm(forth.expand(tiles, n, n), read)
    products = torch.bmm(points.transpose(0, 1), transformed)
    found = torch.bmm(back.expand(tiles, m, n), products.transpose(0, 1))
    return found.view(batch, stride, -1)[:, :length]

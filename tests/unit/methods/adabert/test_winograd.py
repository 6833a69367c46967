"""Winograd's convolution beside the direct one, which is the obvious form."""

from __future__ import annotations

import pytest
import torch

from raycomp.methods.adabert.modules import convolve
from raycomp.methods.adabert.winograd import (
    MIN_TOKENS,
    TILE_PLANS,
    can_use_winograd,
    convolve_relu,
    transform_kernel,
    transform_matrices,
)


def direct(sources: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    return convolve(torch.relu(torch.cat(sources, -1)), weight, 1)


@pytest.mark.parametrize("taps", TILE_PLANS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 5), (3, 4), (2, 7), (5, 30), (2, 33)])
@pytest.mark.parametrize("inputs", [1, 2])
def test_it_is_the_direct_convolution(taps: int, batch: int, length: int, inputs: int) -> None:
    torch.manual_seed(taps)
    sources = [torch.randn(batch, length, 24) for _ in range(inputs)]
    weight = torch.randn(40, 24 * inputs, 1, taps) / (24 * inputs * taps) ** 0.5
    exact = direct([s.double() for s in sources], weight.double())
    got = convolve_relu(sources, transform_kernel(weight), taps)
    assert got.shape == exact.shape
    assert float((got - exact).abs().max()) < 2e-5
    # A slice of a longer tensor is read as a packed one is.
    wide = [torch.cat([s, torch.randn_like(s)], -1)[..., :24] for s in sources]
    torch.testing.assert_close(convolve_relu(wide, transform_kernel(weight), taps), got)


@pytest.mark.parametrize("taps", TILE_PLANS)
@pytest.mark.parametrize("length", [1, 4, 29, 30, 31])
def test_a_text_is_not_touched_by_the_next_one(taps: int, length: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 1, taps)
    x = torch.randn(3, length, 8)
    alone = convolve_relu([x[:1]], transform_kernel(weight), taps)
    x[1:] = torch.nan
    got = convolve_relu([x], transform_kernel(weight), taps)
    torch.testing.assert_close(got[:1], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("taps", TILE_PLANS)
def test_a_tile_by_hand(taps: int) -> None:
    """In fp64: A ((G g) * (B d)) are the sums of products that a filter's outputs are."""
    torch.manual_seed(0)
    kernel, forth, back = transform_matrices(taps)
    outputs = len(back)
    d, g = torch.randn(outputs + taps - 1).double(), torch.randn(taps).double()
    want = [sum(float(d[i + j] * g[j]) for j in range(taps)) for i in range(outputs)]
    got = back @ ((kernel @ g) * (forth @ d))
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), atol=1e-12, rtol=0)


def test_precision_stays_within_three_times_the_direct_form() -> None:
    torch.manual_seed(1)
    for taps in TILE_PLANS:
        x, weight = torch.randn(8, 128, 256), torch.randn(128, 256, 1, taps) / (256 * taps) ** 0.5
        exact = direct([x.double()], weight.double())

        def error(y: torch.Tensor, exact: torch.Tensor = exact) -> float:
            return float((y - exact).pow(2).mean().sqrt())

        plain = direct([x], weight)
        # Against products summed one by one in fp32; a library may sum in better order.
        fast = error(convolve_relu([x], transform_kernel(weight), taps))
        assert fast < 3 * max(error(plain), 2e-7), (taps, fast, error(plain))


def test_where_it_stands_in() -> None:
    x, weight = torch.randn(4, MIN_TOKENS, 8), torch.randn(8, 8, 1, 5)
    assert not can_use_winograd(x, weight, 1)  # gradients may be wanted
    with torch.no_grad():
        assert can_use_winograd(x, weight, 1)
        assert not can_use_winograd(x, weight, 2)
        assert not can_use_winograd(x[:1, : MIN_TOKENS - 1], weight, 1)
        assert not can_use_winograd(x.double(), weight.double(), 1)
        assert not can_use_winograd(x, torch.randn(8, 8, 1, 9), 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not can_use_winograd(x, weight, 1)

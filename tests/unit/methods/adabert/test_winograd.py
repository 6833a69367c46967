"""Winograd's convolution compared with the direct one."""

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


def convolve_directly(sources: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    return convolve(torch.relu(torch.cat(sources, -1)), weight, 1)


@pytest.mark.parametrize("taps", TILE_PLANS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 5), (3, 4), (2, 7), (5, 30), (2, 33)])
@pytest.mark.parametrize("inputs", [1, 2])
def test_it_is_the_direct_convolution(taps: int, batch: int, length: int, inputs: int) -> None:
    torch.manual_seed(taps)
    sources = [torch.randn(batch, length, 24) for _ in range(inputs)]
    weight = torch.randn(40, 24 * inputs, 1, taps) / (24 * inputs * taps) ** 0.5
    exact = convolve_directly([x.double() for x in sources], weight.double())
    output = convolve_relu(sources, transform_kernel(weight), taps)
    assert output.shape == exact.shape
    assert float((output - exact).abs().max()) < 2e-5

    # Sources need not be contiguous in memory.
    slices = [torch.cat([x, torch.randn_like(x)], -1)[..., :24] for x in sources]
    torch.testing.assert_close(convolve_relu(slices, transform_kernel(weight), taps), output)


@pytest.mark.parametrize("taps", TILE_PLANS)
@pytest.mark.parametrize("length", [1, 4, 29, 30, 31])
def test_a_text_is_not_touched_by_the_next_one(taps: int, length: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 1, taps)
    x = torch.randn(3, length, 8)
    first_only = convolve_relu([x[:1]], transform_kernel(weight), taps)
    x[1:] = torch.nan
    output = convolve_relu([x], transform_kernel(weight), taps)
    torch.testing.assert_close(output[:1], first_only, atol=2e-5, rtol=0)


@pytest.mark.parametrize("taps", TILE_PLANS)
def test_a_tile_by_hand(taps: int) -> None:
    """In fp64, A ((G g) * (B d)) are the outputs of a filter g over d."""
    torch.manual_seed(0)
    kernel_matrix, input_matrix, output_matrix = transform_matrices(taps)
    outputs = len(output_matrix)
    d, g = torch.randn(outputs + taps - 1).double(), torch.randn(taps).double()
    expected = [sum(float(d[i + j] * g[j]) for j in range(taps)) for i in range(outputs)]
    tile = output_matrix @ ((kernel_matrix @ g) * (input_matrix @ d))
    torch.testing.assert_close(tile, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("taps", TILE_PLANS)
def test_the_error_is_within_three_times_that_of_the_direct_form(taps: int) -> None:
    torch.manual_seed(taps)
    x, weight = torch.randn(8, 128, 256), torch.randn(128, 256, 1, taps) / (256 * taps) ** 0.5
    exact = convolve_directly([x.double()], weight.double())

    def error(y: torch.Tensor) -> float:
        return float((y - exact).pow(2).mean().sqrt())

    direct_error = error(convolve_directly([x], weight))
    winograd_error = error(convolve_relu([x], transform_kernel(weight), taps))
    # A library may sum in a better order than one by one in fp32, which has an error of 2e-7.
    assert winograd_error < 3 * max(direct_error, 2e-7)


def test_winograds_form_is_for_fp32_inference_on_a_cpu() -> None:
    x, weight = torch.randn(4, MIN_TOKENS, 8), torch.randn(8, 8, 1, 5)
    assert not can_use_winograd(x, weight, 1)  # a gradient may be needed
    with torch.no_grad():
        assert can_use_winograd(x, weight, 1)
        assert not can_use_winograd(x, weight, 2)
        assert not can_use_winograd(x[:1, : MIN_TOKENS - 1], weight, 1)
        assert not can_use_winograd(x.double(), weight.double(), 1)
        assert not can_use_winograd(x, torch.randn(8, 8, 1, 9), 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not can_use_winograd(x, weight, 1)

"""Time and error of one convolution of the compiled CNN, in the direct form and in Winograd's.

    python -m benchmarks.convolution

16 texts of 128 tokens in fp32 on all CPU cores. Errors are the largest differences from fp64. The last
line is a plan that raycomp does not use: tiles of four outputs for seven taps.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.measure import measure_pair, timed
from raycomp.methods.adabert import winograd
from raycomp.methods.adabert.modules import convolve

TEXTS, LENGTH = 16, 128
CPU = torch.device("cpu")

# (input channels, output channels) of merged kernels of width 128.
CHANNELS = ((256, 384), (128, 256), (128, 128))

# Outputs of a tile and points for seven taps: the plan that raycomp does not use.
LARGE_TILES = (4, (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5))


def main() -> None:
    """Measure each size, then the larger tiles."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15, help="Number of timed pairs.")
    runs = parser.parse_args().runs
    with torch.inference_mode():
        for taps in winograd.TILE_PLANS:
            for inputs, outputs in CHANNELS:
                print(measure_convolution(inputs, outputs, taps, runs), flush=True)

        winograd.TILE_PLANS[7] = LARGE_TILES
        winograd.transform_matrices.cache_clear()
        winograd._fp32_matrices.cache_clear()
        print(measure_convolution(*CHANNELS[0], 7, runs), flush=True)


def measure_convolution(inputs: int, outputs: int, taps: int, runs: int) -> str:
    """Measure one convolution and return a line with the ratio of the times and both errors."""
    torch.manual_seed(taps)
    x = torch.randn(TEXTS, LENGTH, inputs)
    weight = torch.randn(outputs, inputs, 1, taps) / (inputs * taps) ** 0.5
    weight = weight.contiguous(memory_format=torch.channels_last)
    transformed = winograd.transform_kernel(weight)
    exact = convolve(torch.relu(x.double()), weight.double(), 1)

    def run_direct() -> Tensor:
        return convolve(torch.relu(x), weight, 1)

    def run_winograd() -> Tensor:
        return winograd.convolve_relu([x], transformed, taps)

    times = measure_pair(timed(run_direct, CPU), timed(run_winograd, CPU), runs)
    direct_error = float((run_direct() - exact).abs().max())
    winograd_error = float((run_winograd() - exact).abs().max())
    tile_outputs, _ = winograd.TILE_PLANS[taps]
    return (
        f"{inputs} to {outputs} channels, {taps} taps, tiles of {tile_outputs}: "
        f"direct / Winograd {times.ratio:.2f}, errors {direct_error:.1e} and {winograd_error:.1e}"
    )


if __name__ == "__main__":
    main()

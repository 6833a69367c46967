"""One convolution of the compiled CNN, directly and in Winograd's form: time and error, in turns.

    python -m benchmarks.convolution

16 texts of 128 tokens, fp32, all processors. Errors are the largest against fp64. The last line is the
choice that was not taken for seven taps: tiles of four outputs.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.measure import measure_pair, timed
from raycomp.methods.adabert import winograd
from raycomp.methods.adabert.modules import convolve

TEXTS, LENGTH = 16, 128
WIDTHS = ((256, 384), (128, 256), (128, 128))
FINER = (4, (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5))  # of seven taps


def main() -> None:
    """Measure each size, then the finer tiles."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with torch.inference_mode():
        for taps in winograd.TILE_PLANS:
            for inputs, outputs in WIDTHS:
                print(line(inputs, outputs, taps, runs), flush=True)
        winograd.TILE_PLANS[7] = FINER
        winograd.transform_matrices.cache_clear()
        winograd._fp32_matrices.cache_clear()
        print(line(*WIDTHS[0], 7, runs), flush=True)


def line(inputs: int, outputs: int, taps: int, runs: int) -> str:
    """Measure one convolution and say what came out."""
    torch.manual_seed(taps)
    x, weight = torch.randn(TEXTS, LENGTH, inputs), torch.randn(outputs, inputs, 1, taps)
    weight = (weight / (inputs * taps) ** 0.5).contiguous(memory_format=torch.channels_last)
    form, tiles = winograd.transform_kernel(weight), winograd.TILE_PLANS[taps][0]
    exact = convolve(torch.relu(x.double()), weight.double(), 1)
    here = torch.device("cpu")

    def direct() -> Tensor:
        return convolve(torch.relu(x), weight, 1)

    def fast() -> Tensor:
        return winograd.convolve_relu([x], form, taps)

    times = measure_pair(timed(direct, here), timed(fast, here), runs)
    errors = [float((f() - exact).abs().max()) for f in (direct, fast)]
    return (
        f"{inputs} to {outputs} channels, {taps} taps, tiles of {tiles}: "
        f"direct / Winograd {times.ratio:.2f}, errors {errors[0]:.1e} and {errors[1]:.1e}"
    )


if __name__ == "__main__":
    main()

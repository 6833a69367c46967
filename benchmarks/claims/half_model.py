"""Forward passes per second of a network cut to half of the encoder's parameters, over the full one.

    python -m benchmarks.claims.half_model

Batches of 32 and of 1 text with 64 tokens. Three networks are fitted to the limit as the search fits
its samples; a figure is the mean of their seconds. fp32 on the CPU, bf16 on a GPU. Takes about a
minute.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Claim, Options, PairedFigures, measure_in_turns, run_claims, timed
from benchmarks.workload import demo_context, half_size_architectures
from raycomp.training.optimizers import autocast, resolve_precision

LENGTH = 64

# Batch size -> passes of one figure.
PASSES = {32: 2, 1: 40}


def measure(options: Options) -> list[Claim]:
    """Time forward passes over full texts."""
    device = torch.device(options.device)
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    context = demo_context()
    network = context.network().to(device)
    archs = [context.space.largest(), *half_size_architectures(context, 3)]
    models = [network.extract(arch).to(device).eval() for arch in archs]

    claims = []
    for batch_size, num_passes in PASSES.items():
        generator = torch.Generator().manual_seed(0)
        vocab_size = context.config.vocab_size
        ids = torch.randint(1000, vocab_size, (batch_size, LENGTH), generator=generator).to(device)
        count = 1 if options.quick else num_passes
        works = [timed(forward_passes(model, ids, count, precision, device), device) for model in models]

        full, *halves = measure_in_turns(works, options.runs)
        half = tuple(statistics.fmean(seconds) for seconds in zip(*halves, strict=True))
        name = f"full network / cut to half the encoder, batch {batch_size}"
        claims.append(Claim.from_figures(name, PairedFigures(full, half), "higher", 1.8))
    return claims


def forward_passes(
    model: Any, ids: Tensor, count: int, precision: str, device: torch.device
) -> Callable[[], None]:
    """Return a function that runs `count` forward passes over token ids (batch, length)."""
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(count):
            with autocast(precision, device):
                model(input_ids=ids, attention_mask=mask)

    return run


if __name__ == "__main__":
    run_claims(__doc__, measure)

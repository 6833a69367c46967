"""A network cut to half of the encoder's parameters against the full one, batch 32 and 1.

Three networks are fitted to the limit as the search fits its samples; a run's figure is how many
times as fast as the full network they are on average. fp32 on a processor, bf16 on a GPU.
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


def measure(settings: Options) -> list[Claim]:
    """Time forward passes over full texts of 64 tokens."""
    device, context = torch.device(settings.device), demo_context()
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    network = context.network().to(device)
    archs = [context.space.largest(), *half_size_architectures(context, 3)]
    models = [network.extract(arch).to(device).eval() for arch in archs]
    found = []
    for batch, passes in ((32, 2), (1, 40)):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, context.config.vocab_size, (batch, LENGTH), generator=generator)
        count = 1 if settings.quick else passes
        works = [
            timed(forward_passes(m, ids.to(device), count, precision, device), device) for m in models
        ]
        full, *cut = measure_in_turns(works, settings.runs)
        mean = tuple(statistics.fmean(row) for row in zip(*cut, strict=True))
        name = f"full network / cut to half the encoder, batch {batch}"
        found.append(Claim.from_figures(name, PairedFigures(full, mean), "higher", 1.8))
    return found


def forward_passes(
    model: Any, ids: Tensor, count: int, precision: str, device: torch.device
) -> Callable[[], None]:
    """Return some forward passes over token ids (batch, length)."""
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def work() -> None:
        for _ in range(count):
            with autocast(precision, device):
                model(input_ids=ids, attention_mask=mask)

    return work


if __name__ == "__main__":
    run_claims(__doc__, measure)

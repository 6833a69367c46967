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

from benchmarks.measure import Claim, Paired, Settings, main, seconds, turns
from benchmarks.setting import halves, workplace
from raycomp.training.optimizers import autocast, resolve_precision

LENGTH = 64


def measure(settings: Settings) -> list[Claim]:
    """Time forward passes over full texts of 64 tokens."""
    device, context = torch.device(settings.device), workplace()
    precision = resolve_precision("auto", device) if device.type == "cuda" else "fp32"
    network = context.network().to(device)
    archs = [context.space.largest(), *halves(context, 3)]
    models = [network.extract(arch).to(device).eval() for arch in archs]
    found = []
    for batch, passes in ((32, 2), (1, 40)):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, context.config.vocab_size, (batch, LENGTH), generator=generator)
        count = 1 if settings.quick else passes
        works = [seconds(forward(m, ids.to(device), count, precision, device), device) for m in models]
        full, *cut = turns(works, settings.runs)
        mean = tuple(statistics.fmean(row) for row in zip(*cut, strict=True))
        name = f"full network / cut to half the encoder, batch {batch}"
        found.append(Claim.of(name, Paired(full, mean), "higher", 1.8))
    return found


def forward(
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
    main(__doc__, measure)

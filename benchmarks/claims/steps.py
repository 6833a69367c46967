"""A sliced training step against the extracted network's; a full one against transformers'.

Both sides of a pair train on the same batch of the demo's sentences, with labels alone, at the
same precision, all parameters trained by fused AdamW, gradients clipped.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Claim, Settings, alternating, main, seconds
from benchmarks.setting import (
    Listed,
    batches,
    bert,
    halves,
    plain_step,
    super_step,
    updater,
    workplace,
)
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.optimizers import resolve_precision


def measure(settings: Settings) -> list[Claim]:
    """Time both pairs, some steps a run."""
    device, context = torch.device(settings.device), workplace()
    precision = resolve_precision("auto", device)
    rows = 128 if device.type == "cuda" else 32
    held = batches(context, rows, 1 if settings.quick else 4, device)
    arch = halves(context, 1)[0]
    network = context.network().to(device)
    small = network.extract(arch).to(device)
    sliced = super_step(network, Listed([arch]), precision, device)
    dense = plain_step(small, precision, device)
    first = alternating(
        seconds(lambda: [sliced(i, b) for i, b in enumerate(held)], device),
        seconds(lambda: [dense(b) for b in held], device),
        settings.runs,
    )
    network = context.network().to(device)
    theirs = plain_step(bert(network).to(device), precision, device)
    ours = FinetuneStep(network, updater(network), precision=precision, device=device)
    second = alternating(
        seconds(lambda: [ours(i, b) for i, b in enumerate(held)], device),
        seconds(lambda: [theirs(b) for b in held], device),
        settings.runs,
    )
    return [
        Claim.of("sliced training step / the same architecture extracted", first, "lower", 1.05),
        Claim.of("full training step / transformers' BERT", second, "lower", 1.0),
    ]


if __name__ == "__main__":
    main(__doc__, measure)

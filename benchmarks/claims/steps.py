"""A sliced training step against the extracted network's; a full one against transformers'.

Both sides of a pair train on the same batch of the demo's sentences, with labels alone, at the
same precision, all parameters trained by fused AdamW, gradients clipped.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Claim, Options, measure_pair, run_claims, timed
from benchmarks.workload import (
    FixedSampler,
    demo_context,
    half_size_architectures,
    make_supernet_step,
    make_updater,
    plain_step,
    to_transformers_bert,
    training_batches,
)
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.optimizers import resolve_precision


def measure(settings: Options) -> list[Claim]:
    """Time both pairs, some steps a run."""
    device, context = torch.device(settings.device), demo_context()
    precision = resolve_precision("auto", device)
    rows = 128 if device.type == "cuda" else 32
    held = training_batches(context, rows, 1 if settings.quick else 4, device)
    arch = half_size_architectures(context, 1)[0]
    network = context.network().to(device)
    small = network.extract(arch).to(device)
    sliced = make_supernet_step(network, FixedSampler([arch]), precision, device)
    dense = plain_step(small, precision, device)
    first = measure_pair(
        timed(lambda: [sliced(i, b) for i, b in enumerate(held)], device),
        timed(lambda: [dense(b) for b in held], device),
        settings.runs,
    )
    network = context.network().to(device)
    theirs = plain_step(to_transformers_bert(network).to(device), precision, device)
    ours = FinetuneStep(network, make_updater(network), precision=precision, device=device)
    second = measure_pair(
        timed(lambda: [ours(i, b) for i, b in enumerate(held)], device),
        timed(lambda: [theirs(b) for b in held], device),
        settings.runs,
    )
    return [
        Claim.from_figures(
            "sliced training step / the same architecture extracted", first, "lower", 1.05
        ),
        Claim.from_figures("full training step / transformers' BERT", second, "lower", 1.0),
    ]


if __name__ == "__main__":
    run_claims(__doc__, measure)

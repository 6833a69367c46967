"""A sliced training step over the extracted network's, and a full one over transformers'.

    python -m benchmarks.claims.steps

Both sides of a pair train on the same batches of the demo's sentences, on labels only, in the same
precision; fused AdamW trains all parameters, and gradients are clipped. Takes about a minute.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Claim, Options, PairedFigures, measure_pair, run_claims, timed
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
from raycomp.data.batches import Batch
from raycomp.methods.context import RunContext
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.optimizers import resolve_precision


def measure(options: Options) -> list[Claim]:
    """Time both pairs; a figure is the seconds of one step on each batch."""
    device = torch.device(options.device)
    context = demo_context()
    rows = 128 if device.type == "cuda" else 32
    batches = training_batches(context, rows, 1 if options.quick else 4, device)

    sliced = measure_sliced(context, batches, device, options.runs)
    full = measure_full(context, batches, device, options.runs)
    return [
        Claim.from_figures(
            "sliced training step / the same architecture extracted", sliced, "lower", 1.05
        ),
        Claim.from_figures("full training step / transformers' BERT", full, "lower", 1.0),
    ]


def measure_sliced(
    context: RunContext, batches: list[Batch], device: torch.device, runs: int
) -> PairedFigures:
    """Time super-network steps of one architecture, and plain steps of the extracted network."""
    precision = resolve_precision("auto", device)
    (arch,) = half_size_architectures(context, 1)
    network = context.network().to(device)
    extracted = network.extract(arch).to(device)
    sliced_step = make_supernet_step(network, FixedSampler([arch]), precision, device)
    extracted_step = plain_step(extracted, precision, device)
    return measure_pair(
        timed(lambda: [sliced_step(i, batch) for i, batch in enumerate(batches)], device),
        timed(lambda: [extracted_step(batch) for batch in batches], device),
        runs,
    )


def measure_full(
    context: RunContext, batches: list[Batch], device: torch.device, runs: int
) -> PairedFigures:
    """Time raycomp's fine-tuning steps, and plain steps of transformers' BERT."""
    precision = resolve_precision("auto", device)
    network = context.network().to(device)
    bert_step = plain_step(to_transformers_bert(network).to(device), precision, device)
    step = FinetuneStep(network, make_updater(network), precision=precision, device=device)
    return measure_pair(
        timed(lambda: [step(i, batch) for i, batch in enumerate(batches)], device),
        timed(lambda: [bert_step(batch) for batch in batches], device),
        runs,
    )


if __name__ == "__main__":
    run_claims(__doc__, measure)

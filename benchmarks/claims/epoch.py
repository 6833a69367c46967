"""Sentences a second in super-network training, against the released recipe.

Two architectures a batch on both sides, labels alone. Released: transformers' BERT with sliced linear
layers, batches of 8 padded to 128, fp32, plain AdamW over all parameters. Here: batches of 32 of similar
lengths, the precision that is faster on this machine. On SST-2 where RAYCOMP_SST2 names a folder with
GLUE's files, else on the demo's sentences, which are longer (27.5 tokens against 13.3 on average) and so
save less padding.

The released code trains one architecture a batch and updates after each; so that a sentence is the same
work on both sides, its peer here trains two and updates once, which is the faster of the two for a
sentence and an architecture.
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from benchmarks.measure import Claim, Options, measure_pair, run_claims
from benchmarks.released import ReleasedSupernet
from benchmarks.workload import (
    demo_context,
    load_task_tokens,
    make_supernet_step,
    pad_batch,
    to_transformers_bert,
    training_batches,
    whole_space_sampler,
)
from raycomp.encoder.architecture import Architecture
from raycomp.training.optimizers import resolve_precision


def measure(settings: Options) -> list[Claim]:
    """Train some steps of each a run; the figure is sentences a second."""
    device, folder = torch.device(settings.device), os.environ.get("RAYCOMP_SST2")
    task, name = ("glue/sst2", "SST-2") if folder else ("demo/polarity", "demo sentences")
    context = demo_context(*([f"task.name={task}", f"task.folder={folder}"] if folder else []))
    tokens, steps = load_task_tokens(context, task), 1 if settings.quick else 6
    held = training_batches(context, 128 if device.type == "cuda" else 32, steps, device)
    network = context.network().to(device)
    theirs = ReleasedSupernet(to_transformers_bert(network).to(device))
    step = make_supernet_step(
        network, whole_space_sampler(context), resolve_precision("auto", device), device
    )
    rng, sampler = np.random.default_rng(0), whole_space_sampler(context)
    eights = [
        pad_batch(tokens, rng.choice(len(tokens), 8, replace=False), context.pad_id, 128).to(device)
        for _ in range(steps)
    ]
    done = {"ours": 0, "theirs": 0}

    def draw() -> list[Architecture]:
        """Ask an equal sampler that learns nothing: nearly the same architectures as ours."""
        archs = sampler.ask(done["theirs"])
        sampler.tell(done["theirs"], [0.0] * len(archs))
        done["theirs"] += 1
        return archs

    def ours() -> float:
        began = time.perf_counter()
        for batch in held:
            step(done["ours"], batch)
            done["ours"] += 1
        return sum(b.total for b in held) / (time.perf_counter() - began)

    def released() -> float:
        archs = [draw() for _ in range(steps)]  # before the clock starts
        began = time.perf_counter()
        for batch, pair in zip(eights, archs, strict=True):
            theirs.step(batch, pair)
        return sum(b.total for b in eights) / (time.perf_counter() - began)

    paired = measure_pair(ours, released, settings.runs)
    return [
        Claim.from_figures(f"super-network epoch, {name} / the released recipe", paired, "higher", 12.0)
    ]


if __name__ == "__main__":
    run_claims(__doc__, measure)

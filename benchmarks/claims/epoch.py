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

from benchmarks.measure import Claim, Settings, alternating, main
from benchmarks.released import Released
from benchmarks.setting import batches, bert, open_sampler, padded, super_step, tokens_of, workplace
from raycomp.encoder.architecture import Architecture
from raycomp.training.optimizers import resolve_precision


def measure(settings: Settings) -> list[Claim]:
    """Train some steps of each a run; the figure is sentences a second."""
    device, folder = torch.device(settings.device), os.environ.get("RAYCOMP_SST2")
    task, name = ("glue/sst2", "SST-2") if folder else ("demo/polarity", "demo sentences")
    context = workplace(*([f"task.name={task}", f"task.folder={folder}"] if folder else []))
    tokens, steps = tokens_of(context, task), 1 if settings.quick else 6
    held = batches(context, 128 if device.type == "cuda" else 32, steps, device)
    network = context.network().to(device)
    theirs = Released(bert(network).to(device))
    step = super_step(network, open_sampler(context), resolve_precision("auto", device), device)
    rng, sampler = np.random.default_rng(0), open_sampler(context)
    eights = [
        padded(tokens, rng.choice(len(tokens), 8, replace=False), context.pad_id, 128).to(device)
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

    paired = alternating(ours, released, settings.runs)
    return [Claim.of(f"super-network epoch, {name} / the released recipe", paired, "higher", 12.0)]


if __name__ == "__main__":
    main(__doc__, measure)

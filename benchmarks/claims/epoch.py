"""Sentences per second of super-network training, over the released recipe.

    python -m benchmarks.claims.epoch

Both train two architectures for each batch, on labels only. Released: transformers' BERT with sliced
linear layers, batches of 8 padded to 128, fp32, plain AdamW over all parameters. Here: batches of 32
with similar lengths, in the precision that is faster on this machine. The data is SST-2 if RAYCOMP_SST2
names a directory with GLUE's files, else the demo's sentences. Those are longer (27.5 tokens against
13.3 on average), so that less padding is saved. Takes about a minute.

The released code trains one architecture for each batch and updates after each. For equal work on a
sentence, the peer trains two and updates once, which is faster for a sentence and an architecture.
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

RELEASED_BATCH_SIZE = 8
RELEASED_LENGTH = 128


def measure(options: Options) -> list[Claim]:
    """Train some steps of each; a figure is sentences per second."""
    device = torch.device(options.device)
    task, data_name, overrides = "demo/polarity", "demo sentences", []
    folder = os.environ.get("RAYCOMP_SST2")
    if folder:
        task, data_name = "glue/sst2", "SST-2"
        overrides = [f"task.name={task}", f"task.folder={folder}"]
    context = demo_context(*overrides)
    tokens = load_task_tokens(context, task)
    num_steps = 1 if options.quick else 6
    batch_size = 128 if device.type == "cuda" else 32
    batches = training_batches(context, batch_size, num_steps, device)
    rng = np.random.default_rng(0)
    released_batches = [
        pad_batch(
            tokens,
            rng.choice(len(tokens), RELEASED_BATCH_SIZE, replace=False),
            context.pad_id,
            RELEASED_LENGTH,
        ).to(device)
        for _ in range(num_steps)
    ]

    network = context.network().to(device)
    released = ReleasedSupernet(to_transformers_bert(network).to(device))
    precision = resolve_precision("auto", device)
    step = make_supernet_step(network, whole_space_sampler(context), precision, device)
    # An equal sampler that learns nothing: nearly the same architectures as ours.
    released_sampler = whole_space_sampler(context)
    num_done = {"ours": 0, "released": 0}

    def sample_architectures() -> list[Architecture]:
        index = num_done["released"]
        archs = released_sampler.ask(index)
        released_sampler.tell(index, [0.0] * len(archs))
        num_done["released"] += 1
        return archs

    def train_ours() -> float:
        started = time.perf_counter()
        for batch in batches:
            step(num_done["ours"], batch)
            num_done["ours"] += 1
        return sum(batch.total for batch in batches) / (time.perf_counter() - started)

    def train_released() -> float:
        # Sampling is not timed: the released code samples uniformly, which costs nothing.
        archs = [sample_architectures() for _ in range(num_steps)]
        started = time.perf_counter()
        for batch, step_archs in zip(released_batches, archs, strict=True):
            released.step(batch, step_archs)
        return sum(batch.total for batch in released_batches) / (time.perf_counter() - started)

    paired = measure_pair(train_ours, train_released, options.runs)
    name = f"super-network epoch, {data_name} / the released recipe"
    return [Claim.from_figures(name, paired, "higher", 12.0)]


if __name__ == "__main__":
    run_claims(__doc__, measure)

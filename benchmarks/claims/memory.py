"""Peak memory of a super-network step against plain fine-tuning with transformers.

Each side runs in a fresh process of one thread: two steps on batches of 32 texts, the longest there
are. The super-network's are of the largest network, with which each training begins, and of two of it.
On a processor the figure is the peak of the process's resident memory less what it held before a network
was made; on a GPU, the peak of what torch allocated. Once with labels alone, and once as jobs
train by default, with a teacher beside the super-network that plain fine-tuning does not hold.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.measure import Claim, Options, PairedFigures, run_claims
from benchmarks.workload import (
    ROOT,
    FixedSampler,
    demo_context,
    make_supernet_step,
    pad_batch,
    plain_step,
    to_transformers_bert,
)
from raycomp.data.batches import Batch
from raycomp.encoder.interface import ElasticOutput
from raycomp.errors import UserError
from raycomp.training.optimizers import resolve_precision

SIDES = ("plain", "super", "taught")


def measure(settings: Options) -> list[Claim]:
    """Run each side in processes of its own, in turns, as many together as there are cores, at most 2."""
    with ThreadPoolExecutor(min(2, len(os.sched_getaffinity(0)))) as pool:
        peaks = list(pool.map(lambda side: _peak_of(side, settings.device), SIDES * settings.runs))
    plain, super_, taught = (tuple(peaks[i :: len(SIDES)]) for i in range(len(SIDES)))
    return [
        Claim.from_figures(
            "peak memory of a super-network step / fine-tuning",
            PairedFigures(super_, plain),
            "lower",
            1.15,
        ),
        Claim.from_figures(
            "peak memory of a super-network step with its teacher / fine-tuning",
            PairedFigures(taught, plain),
            "lower",
            1.15,
        ),
    ]


def _peak_of(side: str, device: str) -> float:
    """Run one side in a fresh process of one thread; return its peak in bytes."""
    command = [sys.executable, "-m", "benchmarks.claims.memory", "--side", side, device]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"memory of {side}: {last}")
    return float(done.stdout.split()[-1])


def peak(side: str, device: torch.device) -> int:
    """Return the bytes that one side needed at its peak."""
    context = demo_context()
    precision = resolve_precision("auto", device)
    tokens = context.tokens("train")
    rows = tokens.lengths.argsort()[-(128 if device.type == "cuda" else 32) :]
    batch = pad_batch(tokens, rows, context.pad_id, context.job.task.max_length)
    largest = context.space.largest()
    # Loading a checkpoint holds the network twice for a moment, on both sides: it is no part of a step.
    network = context.network()
    model = to_transformers_bert(network) if side == "plain" else network
    del network
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    model = model.to(device)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    if side == "plain":
        step = plain_step(model, precision, device)
        for _ in range(2):
            step(batch.to(device))
    else:
        held = context.network().to(device).eval().requires_grad_(False) if side == "taught" else None

        def teacher(b: Batch) -> ElasticOutput | None:
            return held(b, None, hidden=True) if held is not None else None

        sampler = FixedSampler([largest])
        train = make_supernet_step(model, sampler, precision, device, teacher=held and teacher)
        train(0, batch)
        sampler.archs = [largest] * 2
        train(1, batch)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return weights + _resident("VmHWM") - before


def _resident(key: str) -> int:
    """Return the bytes that this process has in memory now (VmRSS), or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def _one_side() -> bool:
    """Run one side when this process was started for it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--side", nargs=2)
    side = parser.parse_known_args()[0].side
    if side is not None:
        print(peak(side[0], torch.device(side[1])))
    return side is not None


if __name__ == "__main__":
    _one_side() or run_claims(__doc__, measure)

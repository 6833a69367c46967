"""Peak memory of a super-network step over plain fine-tuning with transformers.

    python -m benchmarks.claims.memory

Each side runs in a new process with one thread: two steps on batches of 32 texts of the largest length.
The super-network trains its largest network, with which each training begins, and then two of it. On
the CPU, the figure is the peak of the process's resident memory minus what it had before the network
was made. On a GPU, it is the peak of the memory that torch allocated. Measured with labels only, and as
jobs train by default: with a teacher besides the super-network, which plain fine-tuning does not have.
Takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Claim, Options, PairedFigures, run_claims
from benchmarks.run_all import last_line
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
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.errors import UserError
from raycomp.training.optimizers import resolve_precision

# Plain fine-tuning; a super-network trained on labels; a super-network with its teacher.
SIDES = ("plain", "labels", "teacher")
MAX_RATIO = 1.15
MAX_PARALLEL = 2


def measure(options: Options) -> list[Claim]:
    """Run each side in processes of its own, in turns, at most two at the same time."""
    num_parallel = min(MAX_PARALLEL, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(num_parallel) as pool:
        peaks = list(pool.map(lambda side: run_side(side, options.device), SIDES * options.runs))
    plain, labels, teacher = (tuple(peaks[i :: len(SIDES)]) for i in range(len(SIDES)))
    return [
        Claim.from_figures(
            "peak memory of a super-network step / fine-tuning",
            PairedFigures(labels, plain),
            "lower",
            MAX_RATIO,
        ),
        Claim.from_figures(
            "peak memory of a super-network step with its teacher / fine-tuning",
            PairedFigures(teacher, plain),
            "lower",
            MAX_RATIO,
        ),
    ]


def run_side(side: str, device: str) -> float:
    """Run one side in a new process with one thread; return its peak in bytes.

    Raises:
        UserError: The process failed; with the last line of its error.
    """
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.claims.memory", "--side", side, device],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise UserError(f"memory of {side}: {last_line(process.stderr)}")
    return float(process.stdout.split()[-1])


def measure_peak(side: str, device: torch.device) -> int:
    """Return the peak of the bytes that one side uses."""
    context = demo_context()
    precision = resolve_precision("auto", device)
    tokens = context.tokens("train")
    num_rows = 128 if device.type == "cuda" else 32
    longest_rows = tokens.lengths.argsort()[-num_rows:]
    batch = pad_batch(tokens, longest_rows, context.pad_id, context.job.task.max_length)

    # Loading a checkpoint holds the network twice for a moment. It is not part of a step, so the peak is
    # reset after it.
    network = context.network()
    model: Any = to_transformers_bert(network) if side == "plain" else network
    del network
    before = read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")

    model = model.to(device)
    weights_size = sum(p.numel() * p.element_size() for p in model.parameters())
    if side == "plain":
        step = plain_step(model, precision, device)
        for _ in range(2):
            step(batch.to(device))
    else:
        teacher = None
        if side == "teacher":
            teacher = context.network().to(device).eval().requires_grad_(False)
        run_supernet_steps(model, teacher, context.space.largest(), batch, precision, device)

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return weights_size + read_memory("VmHWM") - before


def run_supernet_steps(
    model: ElasticEncoder,
    teacher: ElasticEncoder | None,
    largest: Architecture,
    batch: Batch,
    precision: str,
    device: torch.device,
) -> None:
    """Run a step of the largest network, and a step of two of it."""
    teacher_output = None
    if teacher is not None:

        def teacher_output(batch: Batch) -> Any:
            return teacher(batch, None, hidden=True)

    sampler = FixedSampler([largest])
    step = make_supernet_step(model, sampler, precision, device, teacher=teacher_output)
    step(0, batch)
    sampler.archs = [largest] * 2
    step(1, batch)


def read_memory(key: str) -> int:
    """Return the bytes of memory of this process: now ("VmRSS") or at its peak ("VmHWM")."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def run_requested_side() -> bool:
    """Run one side if this process was started for it; return whether it was."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--side", nargs=2)
    side = parser.parse_known_args()[0].side
    if side is not None:
        print(measure_peak(side[0], torch.device(side[1])))
    return side is not None


if __name__ == "__main__":
    run_requested_side() or run_claims(__doc__, measure)

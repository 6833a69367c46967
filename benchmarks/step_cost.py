"""Seconds of a super-network step for each kind of distillation and dropout, over plain fine-tuning.

    python -m benchmarks.step_cost

Medians of 15 steps each in one process, on batches of 32 of the demo's sentences. Prints the ratios to
a step of plain fine-tuning, and writes runs/benchmarks/step_cost.parquet. Takes about two minutes.
"""

from __future__ import annotations

import statistics
import time

import pandas as pd
import torch

from benchmarks.measure import make_parser
from benchmarks.workload import OUTPUT_FOLDER, make_supernet_step, make_updater, whole_space_sampler
from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.methods.context import RunContext
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.loop import TrainStep
from raycomp.training.optimizers import (
    measure_bf16_speedup,
    measure_matmul_flops,
    resolve_precision,
)

CPU = torch.device("cpu")
WARM_STEPS = 3
STEPS = 15
BATCH_SIZE = 32


def main() -> None:
    """Time every kind of step, print, and write."""
    make_parser(__doc__).parse_args()
    job = load_job("jobs/quickstart.toml")
    context = RunContext(job, OUTPUT_FOLDER / job.run_id)
    precision = resolve_precision("auto", CPU)
    tokens = context.tokens("train")
    plan = TrainPlan(tokens.lengths, BATCH_SIZE, 0)
    batches = [collate(tokens, plan.rows(i), context.pad_id) for i in range(WARM_STEPS + STEPS)]

    model = context.network()
    finetuning = FinetuneStep(model, make_updater(model), precision=precision, device=CPU)
    base = median_seconds(finetuning, batches)
    rows = [{"step": "fine-tuning", "dropout": 0.1, "seconds": base, "ratio": 1.0}]

    for distill in ("none", "logits", "hidden"):
        for dropout in (0.0, 0.1):
            seconds = time_supernet_step(context, batches, precision, distill, dropout)
            rows.append(
                {
                    "step": f"super-network, distill {distill}",
                    "dropout": dropout,
                    "seconds": seconds,
                    "ratio": seconds / base,
                }
            )

    # A training step has about three times the FLOPs of a forward pass.
    full_flops = context.costs.cost("flops", context.space.largest()) / job.task.max_length
    step_flops = 3 * full_flops * float(tokens.lengths.mean()) * BATCH_SIZE
    share = step_flops / base / measure_matmul_flops(precision)
    print(f"fine-tuning reaches {share:.2f} of the speed of a matrix product")

    frame = pd.DataFrame(rows).assign(precision=precision, bf16_speedup=measure_bf16_speedup())
    OUTPUT_FOLDER.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(OUTPUT_FOLDER / "step_cost.parquet")
    print(frame.round(3).to_string(index=False))


def time_supernet_step(
    context: RunContext, batches: list[Batch], precision: str, distill: str, dropout: float
) -> float:
    """Return the median seconds of a super-network step with the teacher's forward pass included."""
    teacher = context.network().eval().requires_grad_(False)
    model = context.network()
    model.set_dropout(dropout)
    step = make_supernet_step(
        model,
        whole_space_sampler(context),
        precision,
        CPU,
        teacher=None if distill == "none" else lambda batch: teacher(batch, None, hidden=True),
        distill=distill,
    )
    return median_seconds(step, batches)


def median_seconds(step: TrainStep, batches: list[Batch]) -> float:
    """Return the median seconds of a step; the first WARM_STEPS do not count."""
    seconds = []
    for index, batch in enumerate(batches):
        started = time.perf_counter()
        step(index, batch)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_STEPS:])


if __name__ == "__main__":
    main()

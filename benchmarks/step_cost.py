"""What a step costs: super-network training per distillation and dropout, against plain fine-tuning.

    python benchmarks/step_cost.py

Medians of 15 steps each in one process on the demo's data; prints ratios to a step of plain
fine-tuning and writes runs/benchmarks/step_cost.parquet.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch

from raycomp.config.loader import load_job
from raycomp.data.batches import TrainPlan, collate
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import DISTILLATION
from raycomp.training.loop import TrainStep
from raycomp.training.optimizers import (
    LinearDecay,
    Updater,
    measure_bf16_speedup,
    measure_matmul_flops,
    resolve_precision,
)
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep

CPU, WARM, STEPS = torch.device("cpu"), 3, 15


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # no settings: --help says what it does
    job = load_job("jobs/quickstart.toml")
    context = RunContext(job, Path("runs/benchmarks") / job.run_id)
    tokens = context.tokens("train")
    plan = TrainPlan(tokens.lengths, 32, 0)
    batches = [collate(tokens, plan.rows(i), context.pad_id) for i in range(WARM + STEPS)]
    precision = resolve_precision("auto", CPU)
    teacher = context.network().eval().requires_grad_(False)
    agreed = train_plan(job, context.space, context.shape, len(tokens))
    agreed["steps"] = [0] * (len(agreed["steps"]) - 1) + [1000]  # the whole space is open

    def median(step: TrainStep) -> float:
        taken = []
        for i, batch in enumerate(batches):
            began = time.perf_counter()
            step(i, batch)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[WARM:])

    def updater(model: torch.nn.Module) -> Updater:
        return Updater(model, LinearDecay(1e-5, 0.1, (0, 1000)), weight_decay=0.0, clip=1.0)

    model = context.network()
    plain = median(FinetuneStep(model, updater(model), precision=precision, device=CPU))
    rows = [{"step": "fine-tuning", "dropout": 0.1, "seconds": plain, "ratio": 1.0}]
    for distill in ("none", "logits", "hidden"):
        for dropout in (0.0, 0.1):
            model = context.network()
            model.set_dropout(dropout)
            step = SupernetStep(
                model,
                build_sampler(job, agreed),
                SliceUpdater(model, LinearDecay(1e-5, 0.1, (0, 1000)), weight_decay=0.0, clip=1.0),
                teacher=None if distill == "none" else lambda b: teacher(b, None, hidden=True),
                objective=DISTILLATION[distill],
                precision=precision,
                device=CPU,
            )
            seconds = median(step)
            name = f"super-network, distill {distill}"
            rows.append({"step": name, "dropout": dropout, "seconds": seconds, "ratio": seconds / plain})
    full = context.costs.cost("flops", context.space.largest()) / job.task.max_length
    used = 3 * full * float(tokens.lengths.mean()) * 32 / plain / measure_matmul_flops(precision)
    print(f"fine-tuning reaches {used:.2f} of the speed of a matrix product")
    frame = pd.DataFrame(rows).assign(precision=precision, bf16_speedup=measure_bf16_speedup())
    out = Path("runs/benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out / "step_cost.parquet")
    print(frame.round(3).to_string(index=False))


if __name__ == "__main__":
    main()

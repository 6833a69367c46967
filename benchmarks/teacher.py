"""raycomp's teacher against plain fine-tuning with transformers: same data, rates, steps and seeds.

    python benchmarks/teacher.py jobs/quickstart.toml --seeds 0 1 2

The peer is what a user would write: AutoModelForSequenceClassification, shuffled batches padded to
their longest sentence, AdamW, linear warm-up and decay. Prints each score on the selection and
validation splits, the mean difference, and the ratio of the times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.encoder.pretrained import model_source
from raycomp.methods.context import RunContext
from raycomp.methods.teacher import TeacherTask
from raycomp.training.evaluation import predict_logits, score_logits
from raycomp.training.loop import fit

CPU = torch.device("cpu")


def main() -> None:
    """Train both for every seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/teacher"))
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        # The precision is fixed: both sides compute alike.
        job = load_job(args.job, [f"run.seed={seed}", "train.precision=fp32", *args.overrides])
        context = RunContext(job, args.out / f"{job.run_id}")
        for name, train in (("raycomp", _ours), ("transformers", _plain)):
            began = time.perf_counter()
            forward = train(context)
            seconds = time.perf_counter() - began
            row = {"seed": seed, "who": name, "seconds": round(seconds, 1)}
            row |= {s: round(_value(context, forward, s), 4) for s in ("selection", _validation(context))}
            rows.append(row)
            print(json.dumps(row), flush=True)
    for split in ("selection", _validation(context)):
        pairs = zip(rows[::2], rows[1::2], strict=True)
        gaps = [a[split] - b[split] for a, b in pairs]
        spread = statistics.stdev(gaps) if len(gaps) > 1 else float("nan")
        print(f"{split}: raycomp - transformers = {statistics.mean(gaps):+.4f} (sd {spread:.4f})")
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(rows[::2], rows[1::2], strict=True)]
    print(f"time: raycomp / transformers = {statistics.median(ratios):.2f}")


def _validation(context: RunContext) -> str:
    return str(context.task.validation[0].name)


def _ours(context: RunContext) -> Any:
    stage = TeacherTask(context, {}, device=CPU, reduce=None)
    plan = TrainPlan(stage.tokens.lengths, stage.batch_size, context.job.run.seed)

    def at(index: int) -> Batch:
        return collate(stage.tokens, plan.rows(index), context.pad_id)

    fit(stage.step, at, 0, stage.num_steps, seed=context.job.run.seed * 4099, report=lambda *_: None)
    model = stage.model.eval()
    return lambda batch: model(batch, None).logits


def _plain(context: RunContext) -> Any:
    job, tokens = context.job, context.tokens("train")
    torch.manual_seed(job.run.seed)
    model = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # the job's own model
        model_source(job.model.name), num_labels=context.task.num_labels
    )
    settings = job.teacher
    steps = -(-len(tokens) // settings.batch_size)
    total = round(settings.epochs * steps)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * total), total)
    rng = np.random.default_rng(job.run.seed)
    model.train()
    done = 0
    while done < total:
        order = rng.permutation(len(tokens))
        for first in range(0, len(order), settings.batch_size):
            if done == total:
                break
            batch = collate(
                tokens, order[first : first + settings.batch_size], context.pad_id, multiple=1
            )
            loss = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask.long(),
                token_type_ids=batch.token_type_ids,
                labels=batch.labels,
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
    model.eval()
    return lambda batch: (
        model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            token_type_ids=batch.token_type_ids,
        ).logits
    )


def _value(context: RunContext, forward: Any, split: str) -> float:
    tokens = context.tokens(split)
    logits = predict_logits(
        forward, tokens, pad_id=context.pad_id, max_tokens=8192, precision="fp32", device=CPU
    )
    return float(score_logits(context.metrics, tokens, logits).values[context.primary])


if __name__ == "__main__":
    main()

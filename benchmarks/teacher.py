"""raycomp's teacher against plain fine-tuning with transformers: same data, rates, steps and seeds.

    python -m benchmarks.teacher jobs/quickstart.toml --seeds 0 1 2

The peer is the code that a user would write: AutoModelForSequenceClassification, shuffled batches
padded to their longest sentence, AdamW, linear warm-up and decay. Both compute in fp32. Prints the
scores on the selection and validation splits, the mean difference, and the ratio of the times. Takes
twice as long as the teacher of the job, for each seed.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

from benchmarks.measure import make_parser
from benchmarks.workload import evaluate_split
from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.encoder.pretrained import model_source
from raycomp.methods.context import RunContext
from raycomp.methods.teacher import TeacherTask
from raycomp.methods.teacher_length import count_teacher_steps
from raycomp.storage.tensors import save_tensors
from raycomp.training.loop import fit

CPU = torch.device("cpu")

# From a batch to logits (batch, classes).
Forward = Callable[[Batch], Tensor]


def main() -> None:
    """Train both sides with every seed, and compare."""
    parser = make_parser(__doc__)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/teacher"))
    args = parser.parse_args()

    rows: dict[str, list[dict[str, float]]] = {"raycomp": [], "transformers": []}
    for seed in args.seeds:
        # A fixed precision, so that both sides compute in the same way.
        job = load_job(args.job, [f"run.seed={seed}", "train.precision=fp32", *args.overrides])
        context = RunContext(job, args.out / job.run_id)
        for name, train in (("raycomp", train_with_raycomp), ("transformers", train_with_transformers)):
            row = measure_teacher(context, train)
            rows[name].append(row)
            print(json.dumps({"seed": seed, "who": name, **row}), flush=True)

    pairs = list(zip(rows["raycomp"], rows["transformers"], strict=True))
    for split in pairs[0][0].keys() - {"seconds"}:
        differences = [ours[split] - theirs[split] for ours, theirs in pairs]
        deviation = statistics.stdev(differences) if len(differences) > 1 else math.nan
        mean = statistics.mean(differences)
        print(f"{split}: raycomp - transformers = {mean:+.4f} (sd {deviation:.4f})")
    ratio = statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in pairs)
    print(f"time: raycomp / transformers = {ratio:.2f}")


def measure_teacher(context: RunContext, train: Callable[[RunContext], Forward]) -> dict[str, float]:
    """Return the seconds of a training, and the scores on selection and the first validation split."""
    started = time.perf_counter()
    forward = train(context)
    row = {"seconds": round(time.perf_counter() - started, 1)}
    for split in ("selection", context.task.validation[0].name):
        row[split] = round(evaluate_split(context, forward, split, "fp32")[0], 4)
    return row


def train_with_raycomp(context: RunContext) -> Forward:
    """Train the teacher with raycomp's task and loop."""
    # A run writes the weights before it starts the task.
    save_tensors(context.layout.teacher_start, context.network().state_dict())
    task = TeacherTask(context, {}, device=CPU, reduce=None)
    plan = TrainPlan(task.tokens.lengths, task.batch_size, context.job.run.seed)

    def make_batch(index: int) -> Batch:
        return collate(task.tokens, plan.rows(index), context.pad_id)

    seed = context.job.run.seed * 4099
    fit(task.step, make_batch, 0, task.num_steps, seed=seed, report=lambda *_: None)
    model = task.model.eval()
    return lambda batch: model(batch, None).logits


def train_with_transformers(context: RunContext) -> Forward:
    """Train the same model in a plain loop."""
    settings = context.job.teacher
    torch.manual_seed(context.job.run.seed)
    model = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # the job's own model
        model_source(context.job.model.name), num_labels=context.task.num_labels
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    num_steps = count_teacher_steps(settings, len(context.tokens("train")), context.task.num_labels)
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * num_steps), num_steps)

    model.train()
    batches = shuffled_batches(context)
    for _ in range(num_steps):
        batch = next(batches)
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
    model.eval()

    return lambda batch: (
        model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            token_type_ids=batch.token_type_ids,
        ).logits
    )


def shuffled_batches(context: RunContext) -> Iterator[Batch]:
    """Yield training batches in a new random order in each epoch, without end."""
    tokens = context.tokens("train")
    batch_size = context.job.teacher.batch_size
    rng = np.random.default_rng(context.job.run.seed)
    while True:
        order = rng.permutation(len(tokens))
        for first in range(0, len(order), batch_size):
            yield collate(tokens, order[first : first + batch_size], context.pad_id, multiple=1)


if __name__ == "__main__":
    main()

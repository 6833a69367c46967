"""The teacher's score for several lengths and learning rates, on a job's selection and validation rows.

    python -m benchmarks.teacher_length JOB --set task.validation_half=a \\
        --candidates epochs=3 epochs=10 epochs=10,learning_rate=1e-4 --seeds 0 1

A candidate is a list of settings of section [teacher]. Each teacher is trained in this process, without
Ray, in the precision of the job. Prints one JSON line for each candidate and seed: scores and losses on
both splits, the training loss of each third, the selection score after each epoch (`--history`), and CPU
seconds of the training. Appends the lines to OUT/teacher_length.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import make_parser
from benchmarks.workload import evaluate_split
from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.methods.context import RunContext
from raycomp.methods.teacher import TeacherTask
from raycomp.storage.tensors import save_tensors
from raycomp.training.loop import StepResult, fit

CPU = torch.device("cpu")


def main() -> None:
    """Train one teacher for each candidate and seed, and print a line for each."""
    parser = make_parser(__doc__)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--candidates", nargs="+", default=["epochs=3", "epochs=auto"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--history", action="store_true", help="score selection rows after each epoch")
    parser.add_argument("--out", type=Path, default=Path("runs/teacher_length"))
    args = parser.parse_args()

    for seed in args.seeds:
        for candidate in args.candidates:
            settings = [f"teacher.{setting}" for setting in candidate.split(",")]
            job = load_job(args.job, [*args.overrides, f"run.seed={seed}", *settings])
            context = RunContext(job, args.out / job.run_id)
            row = {"candidate": candidate, "seed": seed, **train_teacher(context, history=args.history)}
            line = json.dumps(row)
            print(line, flush=True)
            with (args.out / "teacher_length.jsonl").open("a") as file:
                file.write(line + "\n")


def train_teacher(context: RunContext, *, history: bool) -> dict[str, Any]:
    """Train the teacher of a job, and return its scores and its cost.

    Args:
        context: Context of the job.
        history: Whether to score the selection rows after each epoch.
    """
    # A run writes the weights before it starts the task.
    save_tensors(context.layout.teacher_start, context.network().state_dict())
    task = TeacherTask(context, {}, device=CPU, reduce=None)
    plan = TrainPlan(task.tokens.lengths, task.batch_size, context.job.run.seed)
    losses: list[float] = []
    scores: list[float] = []
    scoring_seconds = 0.0

    def make_batch(index: int) -> Batch:
        return collate(task.tokens, plan.rows(index), context.pad_id)

    def report(index: int, result: StepResult, seconds: float) -> None:
        nonlocal scoring_seconds
        losses.append(result.loss)
        if history and (index + 1) % task.steps_per_epoch == 0:
            started = time.process_time()
            scores.append(round(_score(context, task, "selection")[0], 4))
            scoring_seconds += time.process_time() - started

    started = time.process_time()
    seed = context.job.run.seed * 4099
    fit(task.step, make_batch, 0, task.num_steps, seed=seed, report=report)
    seconds = time.process_time() - started - scoring_seconds

    selection = _score(context, task, "selection")
    validation = _score(context, task, context.task.validation[0].name)
    return {
        "rows": len(task.tokens),
        "outputs": context.config.num_labels,
        "steps": task.num_steps,
        "selection": round(selection[0], 4),
        "selection_rows": len(context.task.selection),
        "selection_loss": round(selection[1], 4),
        "validation": round(validation[0], 4),
        "validation_rows": len(context.task.validation[0]),
        "validation_loss": round(validation[1], 4),
        "losses": [round(loss, 3) for loss in mean_of_thirds(losses)],
        "history": scores,
        "cpu_seconds": round(seconds, 1),
    }


def mean_of_thirds(losses: Sequence[float]) -> list[float]:
    """Return the mean of each third of some losses; the first third has what does not divide by three.

    Example:
        >>> mean_of_thirds([4.0, 3.0, 1.0])
        [4.0, 3.0, 1.0]
    """
    third = max(1, len(losses) // 3)
    parts = (losses[: -2 * third], losses[-2 * third : -third], losses[-third:])
    return [sum(part) / len(part) for part in parts if part]


def _score(context: RunContext, task: TeacherTask, split: str) -> tuple[float, float]:
    """Return the metric and the loss of the present weights on a split."""
    model = task.model.eval()
    return evaluate_split(context, lambda batch: model(batch, None).logits, split, "fp32")


if __name__ == "__main__":
    main()

"""What a job would do and need, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raycomp.config.job import Job
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import train_plan
from raycomp.runtime.pipeline.adabert import planned, training_flops
from raycomp.runtime.pipeline.forecast import Machines, Rates, Work, forecast, measured
from raycomp.runtime.pipeline.preflight import check_settings, least_of, unmet
from raycomp.search.search_loop import evaluation_budget
from raycomp.training.optimizers import measure_matmul_flops, resolve_precision

# Share of a matrix product's speed that a training step reaches (benchmarks/step_cost.py).
EFFICIENCY = 0.6


def make_plan(job: Job, machines: Machines | None = None, runs: Path = Path("runs")) -> dict[str, Any]:
    """Return size and reach of the space, each budget's verdict, steps, memory and time.

    Starts no training; reads the data and the encoder's shapes.

    Args:
        job: the job.
        machines: a cluster to say time and cost on; None: this machine.
        runs: folder of runs, for the steps that they measured.

    Raises:
        UserError: as the run itself would, but for budgets that cannot be met: those are in the answer.
    """
    context = RunContext(job, Path("runs") / job.run_id)
    check_settings(context)
    space, costs, task = context.space, context.costs, context.task
    reach = {
        kind: (costs.cost(kind, space.smallest()), costs.cost(kind, space.largest()))
        for kind in ("params", "encoder_params", "flops")
    }
    reasons = unmet(context)
    budgets = [
        {
            "name": budget.name,
            "kind": budget.kind,
            "limit": context.limit(budget),
            "feasible": not reasons[budget.name],
            "nearest": least_of(context, budget.kind) if reasons[budget.name] else context.limit(budget),
            "reason": reasons[budget.name],
        }
        for budget in job.budget
    ]
    per_epoch = -(-len(task.train) // job.teacher.batch_size)
    teacher = 0 if context.fine_tuned and job.teacher.mode != "train" else per_epoch * job.teacher.epochs
    phases = (
        train_plan(job, space, context.shape, len(task.train))["steps"]
        if "yoco" in job.run.methods
        else []
    )
    found = {
        "run": job.run_id,
        "task": f"{task.name}: {len(task.train):,} train, {len(task.selection):,} selection, "
        + ", ".join(f"{len(v):,} {v.name}" for v in task.validation),
        "space": {"size": space.num_architectures(), "reach": {k: list(v) for k, v in reach.items()}},
        "budgets": budgets,
        "steps": {"teacher": round(teacher), "supernet": sum(phases), "phases": len(phases)},
        "memory_gib": _memory(reach["params"][1], job, context),
        "time": _time(job, context, round(teacher), phases),
        "notes": list(task.notes),
    }
    if "adabert" in job.run.methods:
        found["adabert"] = planned(context)
    if machines is not None:
        found["forecast"] = _forecast(context, round(teacher), phases, machines, runs)
    elif "adabert" not in job.run.methods:
        rates = measured(runs, job, job.train.gpus > 0)
        if rates is not None:
            guess = forecast(_work(context, round(teacher), phases), rates, Machines())
            minutes = max(1, round(guess["hours"] * 60))
            found["time"] = f"about {minutes} min on one worker ({rates.source})"
    return found


def _forecast(
    context: RunContext, teacher: int, steps: list[int], machines: Machines, runs: Path
) -> dict[str, Any]:
    """Return time and cost of YOCO-BERT's part of a job on some machines.

    Raises:
        UserError: GPUs are asked for and no run has measured a step on one; or the job is AdaBERT's.
    """
    job = context.job
    if "yoco" not in job.run.methods:
        raise UserError("--nodes and --gpus plan the super-network; this job's methods have no yoco")
    rates = measured(runs, job, machines.gpus > 0)
    if rates is None and machines.gpus:
        raise UserError(
            f"no run in {runs} has measured steps of {job.model.name} on a GPU; do a short one first, "
            "such as `raycomp run JOB --set train.gpus=1 --set train.steps=20`, or name others by --runs"
        )
    if rates is None:
        rates = _computed_rates(context)
    return forecast(_work(context, teacher, steps), rates, machines)


def _work(context: RunContext, teacher: int, steps: list[int]) -> Work:
    job = context.job
    total, shared = evaluation_budget(job, context.space.num_architectures())
    trials = len(job.budget) * len(job.search.searchers) * len(job.search.seeds)
    return Work(
        teacher=(teacher, job.teacher.batch_size),
        supernet=(sum(steps), job.train.batch_size),
        evaluations=shared * len(job.search.seeds) + (total - shared) * trials,
        selection=len(context.task.selection),
        tokens=float(context.tokens("train").lengths.mean()),
        params=int(context.costs.cost("params", context.space.largest())),
    )


def _computed_rates(context: RunContext) -> Rates:
    """Return rates from FLOPs and this machine's speed: no run has measured a step."""
    job, costs, space = context.job, context.costs, context.space
    precision = resolve_precision(job.train.precision, torch.device("cpu"))
    speed = EFFICIENCY * measure_matmul_flops(precision)
    length = job.search.flops_length or job.task.max_length
    full = costs.cost("flops", space.largest()) / length
    middle = (full + costs.cost("flops", space.smallest()) / length) / 2
    distilled = full if job.train.distill != "none" else 0.0
    return Rates(
        teacher=3 * full / speed,
        supernet=(3 * job.train.samples * middle + distilled) / speed,
        evaluation=float(context.tokens("selection").lengths.mean()) * middle / speed,
        source=f"no run measured a step; from FLOPs at this machine's speed in {precision}",
    )


def _memory(params: int, job: Job, context: RunContext) -> float:
    """Return GiB a worker: weights, gradients, AdamW's two moments, a teacher, and activations."""
    copies = 4 + (job.train.distill != "none")
    config = context.config
    per_token = config.num_hidden_layers * (12 * config.hidden_size + 2 * config.layer_ffn[0])
    rows = job.train.batch_size / job.train.workers
    activations = per_token * 4 * rows * job.task.max_length
    return float((copies * 4 * params + activations) / 2**30 + 0.6)  # 0.6: Python, torch, Ray


def _time(job: Job, context: RunContext, teacher: int, steps: list[int]) -> str:
    """Return an estimate from FLOPs: three times the forward pass a step."""
    costs, space = context.costs, context.space
    lengths = context.tokens("train").lengths
    share = float(lengths.mean()) / (job.search.flops_length or job.task.max_length)
    full = costs.cost("flops", space.largest()) * share
    least = costs.cost("flops", space.smallest()) * share
    distilled = 1.0 if job.train.distill != "none" else 0.0
    middle = (full + least) / 2
    work = 3 * full * teacher * job.teacher.batch_size
    work += sum(steps) * job.train.batch_size * (3 * job.train.samples * middle + distilled * full)
    if "adabert" in job.run.methods:
        work += training_flops(context, share)
        work += full * len(context.task.train) * (1 + job.augment.copies)  # the teacher's answers
    if job.train.gpus:
        return f"{work:.3g} FLOPs of training; measure a step on your GPU to turn this into hours"
    precision = resolve_precision(job.train.precision, torch.device("cpu"))
    minutes = work / (EFFICIENCY * measure_matmul_flops(precision)) / 60
    return (
        f"about {max(1, round(minutes))} min of training on this machine's {torch.get_num_threads()} "
        f"threads in {precision} ({work:.2g} FLOPs)"
    )

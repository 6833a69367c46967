"""The plan of a job: what it would do and need, before anything is spent."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.config.lengths import apply_lengths
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.healing import plan_healing
from raycomp.methods.lengths import find_lengths
from raycomp.methods.registry import load_method_class
from raycomp.methods.teacher_length import count_teacher_steps
from raycomp.runtime.pipeline.forecast import (
    Machines,
    Rates,
    Work,
    find_measured_rates,
    make_forecast,
)
from raycomp.runtime.pipeline.overview import make_overview
from raycomp.runtime.pipeline.preflight import check_settings, least_cost, unmet_budgets
from raycomp.runtime.scoring.evaluator_slots import evaluator_bytes, evaluator_node, plan_evaluators
from raycomp.search.budget import cheapest_architecture
from raycomp.search.budget_groups import evaluation_budget
from raycomp.search.search_loop import search_groups
from raycomp.storage.machine_limits import measure_limits, usable_cpus
from raycomp.training.optimizers import measure_matmul_flops, resolve_precision

# Share of a matrix product's speed that a training step reaches (benchmarks/step_cost.py).
EFFICIENCY = 0.6
# Memory of Python, torch and Ray in one process.
PROCESS_GIB = 0.6


def make_plan(job: Job, machines: Machines | None = None, runs: Path = Path("runs")) -> dict[str, Any]:
    """Return size and reach of the space, each budget's verdict, steps, memory and time.

    It starts no training, and reads only the data and the encoder's shapes.

    Args:
        job: The job.
        machines: Cluster to estimate time and cost for; None: this machine.
        runs: Directory of earlier runs, whose measured steps are used.

    Raises:
        UserError: As the run itself would, except for budgets that cannot be met: those are in the
            answer.
    """
    context = RunContext(job, Path("runs") / job.run_id)
    check_settings(context)
    context.job = job = apply_lengths(job, find_lengths(context))
    methods = {name: load_method_class(name)().plan(context.for_method(name)) for name in job.run.methods}
    teacher_steps = _teacher_steps(context)
    supernet_steps = methods.get("yoco", {}).get("steps", [])
    plan = {
        "run": context.run_dir.name,
        "task": _describe_task(context),
        "overview": make_overview(context).to_json(),
        "space": _describe_space(context),
        "budgets": _judge_budgets(context),
        "steps": {
            "teacher": teacher_steps,
            "supernet": sum(supernet_steps),
            "phases": len(supernet_steps),
        },
        "memory_gib": _memory(context),
        "search": _search_size(context, methods),
        "time": _time(context, teacher_steps, methods),
        "notes": list(context.task.notes),
        "methods": {name: _without_flops(figures) for name, figures in methods.items()},
    }
    if "adabert" in methods:
        plan["adabert"] = _without_flops(methods["adabert"])

    if machines is not None:
        plan["forecast"] = _forecast(context, teacher_steps, supernet_steps, machines, runs)
    elif job.run.methods == ["yoco"]:
        rates = find_measured_rates(runs, job, job.train.gpus > 0)
        if rates is not None:
            estimate = make_forecast(_work(context, teacher_steps, supernet_steps), rates, Machines())
            minutes = max(1, round(estimate["hours"] * 60))
            plan["time"] = f"about {minutes} min on one worker ({rates.source})"
    return plan


def _without_flops(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key != "flops"}


def _teacher_steps(context: RunContext) -> int:
    """Return the steps of the teacher's fine-tuning; 0 where the model is fine-tuned already."""
    settings = context.job.teacher
    if context.fine_tuned and settings.mode != "train":
        return 0
    return count_teacher_steps(settings, len(context.task.train), context.task.num_labels)


def _describe_task(context: RunContext) -> str:
    task = context.task
    held_out = ", ".join(f"{len(split):,} {split.name}" for split in task.validation)
    return f"{task.name}: {len(task.train):,} train, {len(task.selection):,} selection, {held_out}"


def _describe_space(context: RunContext) -> dict[str, Any]:
    """Return the number of architectures, and the smallest and the largest cost of each kind."""
    space, costs = context.space, context.costs
    reach = {
        kind: [
            cheapest_architecture(space, functools.partial(costs.cost, kind))[1],
            costs.cost(kind, space.largest()),
        ]
        for kind in ("params", "encoder_params", "flops")
    }
    return {"size": space.num_architectures(), "reach": reach}


def _judge_budgets(context: RunContext) -> list[dict[str, Any]]:
    reasons = unmet_budgets(context)
    verdicts = []
    for budget in context.job.budget:
        if not context.budget_costs.is_known(budget):
            verdicts.append(_unknown_budget(budget))
            continue
        reason = reasons[budget.name]
        limit = context.limit(budget)
        verdicts.append(
            {
                "name": budget.name,
                "kind": budget.kind,
                "limit": limit,
                "limits": context.budget_costs.limits(budget),
                "feasible": not reason,
                "nearest": least_cost(context, context.cost_key(budget)) if reason else limit,
                "reason": reason,
            }
        )
    return verdicts


def _unknown_budget(budget: BudgetSettings) -> dict[str, Any]:
    """Return the entry of a budget whose device is not measured yet: no verdict is possible."""
    limits = ", ".join(f"{kind} <= {limit}" for kind, limit in budget.limits.items())
    return {
        "name": budget.name,
        "kind": budget.kind,
        "limit": None,
        "limits": None,
        "feasible": None,
        "nearest": None,
        "reason": f"{limits} is checked when the run has measured the layers. `raycomp profile` measures "
        "them before.",
    }


def _forecast(
    context: RunContext, teacher: int, steps: list[int], machines: Machines, runs: Path
) -> dict[str, Any]:
    """Return time and cost of YOCO-BERT's part of a job on some machines.

    Raises:
        UserError: GPUs are asked for and no run has measured a step on one; or the job is AdaBERT's.
    """
    job = context.job
    if "yoco" not in job.run.methods:
        raise UserError(
            "--nodes and --gpus plan the super-network of yoco, but this job does not use yoco. Leave "
            "both options out, or add 'yoco' to run.methods."
        )
    rates = find_measured_rates(runs, job, machines.gpus > 0)
    if rates is None and machines.gpus:
        raise UserError(
            f"no run in {runs} has measured steps of {job.model.name} on a GPU; do a short one first, "
            "such as `raycomp run JOB --set train.gpus=1 --set train.steps=20`, or name others by --runs"
        )
    if rates is None:
        rates = _computed_rates(context)
    return make_forecast(_work(context, teacher, steps), rates, machines)


def _work(context: RunContext, teacher: int, steps: list[int]) -> Work:
    job = context.job
    search = job.search
    num_groups = len(job.budget)
    if all(context.budget_costs.is_known(budget) for budget in job.budget):
        num_groups = len(search_groups(context))
    total, shared = evaluation_budget(
        search.evaluations, search.shared_fraction, num_groups, context.space.num_architectures()
    )
    trials = num_groups * len(search.searchers) * len(search.seeds)
    return Work(
        teacher=(teacher, job.teacher.batch_size),
        supernet=(sum(steps), job.train.batch_size),
        evaluations=shared * len(search.seeds) + (total - shared) * trials,
        selection=len(context.task.selection),
        tokens=float(context.tokens("train").lengths.mean()),
        params=int(context.costs.cost("params", context.space.largest())),
        healing=(plan_healing(context)["network_steps"], job.heal.batch_size),
        samples=job.train.samples,
    )


def _computed_rates(context: RunContext) -> Rates:
    """Return rates from FLOPs and this machine's speed: no run has measured a step."""
    job, costs, space = context.job, context.costs, context.space
    precision = resolve_precision(job.train.precision, torch.device("cpu"))
    speed = EFFICIENCY * measure_matmul_flops(precision)
    length = job.search.flops_length or job.task.max_length
    full = costs.cost("flops", space.largest()) / length
    _, least = cheapest_architecture(space, functools.partial(costs.cost, "flops"))
    middle = (full + least / length) / 2
    distilled = full if job.train.distill != "none" else 0.0
    return Rates(
        teacher=3 * full / speed,
        supernet=(3 * job.train.samples * middle + distilled) / speed,
        evaluation=float(context.tokens("selection").lengths.mean()) * middle / speed,
        source=f"no run measured a step; from FLOPs at this machine's speed in {precision}",
    )


def _memory(context: RunContext) -> float:
    """Return GiB per worker: weights, gradients, AdamW's two moments, a teacher, and activations."""
    job, config = context.job, context.config
    params = context.costs.cost("params", context.space.largest())
    num_copies = 4 if job.train.distill == "none" else 5
    per_token = config.num_hidden_layers * (12 * config.hidden_size + 2 * config.layer_ffn[0])
    rows = job.train.batch_size / job.train.workers
    activations = per_token * 4 * rows * job.task.max_length
    return float((num_copies * 4 * params + activations) / 2**30 + PROCESS_GIB)


def _search_size(context: RunContext, methods: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return number and memory of the evaluators on this machine; None without a search."""
    if not any("steps" in figures for figures in methods.values()):
        return None
    memory = evaluator_bytes(context)
    # A run on this machine has one node with the limits of this process.
    node = evaluator_node("", {"CPU": usable_cpus()}, measure_limits())
    requested = context.job.search.evaluators
    plan = plan_evaluators([node], requested=requested, gpus=0.0, memory=memory, ray_slots=0)
    return {"evaluators": len(plan.nodes), "evaluator_gib": memory / 2**30}


def _time(context: RunContext, teacher_steps: int, methods: dict[str, dict[str, Any]]) -> str:
    """Return an estimate from FLOPs: a training step takes three times its forward pass."""
    job = context.job
    full, _ = context.flops_per_row()
    work = 3 * full * teacher_steps * job.teacher.batch_size
    work += sum(figures.get("flops", 0.0) for figures in methods.values())
    if job.train.gpus:
        return f"{work:.3g} FLOPs of training; measure a step on your GPU to turn this into hours"

    precision = resolve_precision(job.train.precision, torch.device("cpu"))
    minutes = work / (EFFICIENCY * measure_matmul_flops(precision)) / 60
    num_threads = torch.get_num_threads()
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    return (
        f"about {max(1, round(minutes))} min of training with {threads} of this machine, in {precision} "
        f"({work:.2g} FLOPs)"
    )

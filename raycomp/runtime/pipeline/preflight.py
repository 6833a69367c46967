"""Preflight: what a job would fail on later, found before anything is spent."""

from __future__ import annotations

from pathlib import Path

from raycomp.data.batches import smallest_batch
from raycomp.encoder.export import find_cache_problem
from raycomp.errors import UserError
from raycomp.methods.base import Method
from raycomp.methods.context import RunContext
from raycomp.methods.given_teacher import check_given_teacher, score_given_teacher
from raycomp.methods.lengths import find_lengths
from raycomp.methods.registry import load_method_class
from raycomp.runtime.cluster.shadowing import find_shadowing_files
from raycomp.runtime.pipeline.device_checks import find_device_problems
from raycomp.runtime.pipeline.table_checks import find_table_problems
from raycomp.runtime.pipeline.trackers import check_trackers


def check(context: RunContext, *, score_teacher: bool = True) -> None:
    """Refuse a job that would fail later: settings, a budget that cannot be met, lengths, or its teacher.

    Args:
        context: The run's context.
        score_teacher: Whether a given teacher is scored. A caller that has checked a job with the same
            task and model does not need it again.

    Raises:
        UserError: One line per problem, with the nearest feasible value of each budget.
    """
    problems = _find_problems(context)
    problems += [reason for reason in unmet_budgets(context).values() if reason]
    if problems:
        raise UserError("\n".join(problems))
    # A resumed run has chosen its lengths.
    if not context.layout.lengths.exists():
        find_lengths(context)
    if score_teacher:
        _check_teacher(context)


def check_budgets(context: RunContext) -> None:
    """Refuse budgets that no method of the job meets.

    Raises:
        UserError: One line per budget, with the nearest feasible value.
    """
    if reasons := [reason for reason in unmet_budgets(context).values() if reason]:
        raise UserError("\n".join(reasons))


def check_settings(context: RunContext) -> None:
    """Refuse what `check` refuses, except for budgets that cannot be met.

    Raises:
        UserError: One line per problem.
    """
    problems = _find_problems(context)
    if problems:
        raise UserError("\n".join(problems))
    _check_teacher(context)


def _check_teacher(context: RunContext) -> None:
    """Refuse a given teacher that does not know the task, or whose outputs are in another order.

    It comes after all other checks: it reads the weights and computes for seconds.
    """
    teacher = score_given_teacher(context)
    if teacher is not None:
        check_given_teacher(teacher, context.job.teacher.mode)


def unmet_budgets(context: RunContext) -> dict[str, str]:
    """Return for each budget why no method of the job meets it; an empty text where one does.

    Corrections of an interrupted run do not count: a budget that they leave without a network is reported
    with its nearest model, and the others are deployed.
    """
    context = context.uncorrected()
    reasons = {}
    for budget in context.job.budget:
        reasons[budget.name] = ""
        # The run measures the layers first, and asks again.
        if not context.budget_costs.is_known(budget):
            continue
        method, least = _smallest_method(context, context.cost_key(budget))
        if method is not None and least > context.limit(budget):
            reasons[budget.name] = method.explain_infeasible(context, budget)
    return reasons


def least_cost(context: RunContext, kind: str) -> float:
    """Return the cost of the smallest model that a method of the job can make; 0 without such a method.

    Args:
        context: The run's context.
        kind: Kind of cost, such as "params".
    """
    return _smallest_method(context, kind)[1]


def _smallest_method(context: RunContext, kind: str) -> tuple[Method | None, float]:
    """Return the method of the job that makes the smallest model, and the cost of that model."""
    candidates: list[tuple[float, Method]] = []
    for name in context.job.run.methods:
        method: Method = load_method_class(name)()
        least = method.least_cost(context, kind)
        if least is not None:
            candidates.append((least, method))
    if not candidates:
        return None, 0.0
    least, method = min(candidates, key=lambda pair: pair[0])
    return method, least


def _smallest_batches(context: RunContext) -> list[int]:
    """Return the rows of the smallest batch of each training task that the job asks for."""
    job = context.job
    batches = []
    if job.teacher.mode == "train" or not context.fine_tuned:
        batches.append(smallest_batch(len(context.task.train), job.teacher.batch_size))
    for name in job.run.methods:
        batches += load_method_class(name)().smallest_batches(context.for_method(name))
    return batches


def _find_problems(context: RunContext) -> list[str]:
    job = context.job
    check_trackers(job)
    # The checks of a method ask for costs that it may not know.
    if problems := find_device_problems(context):
        return problems

    problems = find_shadowing_files(Path.cwd()) + find_table_problems(context)
    cache_problem = find_cache_problem()
    if cache_problem is not None:
        problems.append(cache_problem)
    if job.teacher.mode == "as-is" and not context.fine_tuned:
        problems.append(
            f"teacher.mode is 'as-is', but {job.model.name} lacks a classifier for the "
            f"{context.task.num_labels} outputs of this task. Use teacher.mode = 'train'."
        )
    method_problems = []
    for name in job.run.methods:
        method_problems += load_method_class(name)().find_problems(context.for_method(name))

    smallest = min(_smallest_batches(context), default=job.train.workers)
    if job.train.workers > smallest:
        problems.append(
            f"train.workers is {job.train.workers}, but the smallest batch has {smallest} rows, and each "
            "worker needs at least one. Raise batch_size or lower train.workers."
        )
    return problems + method_problems

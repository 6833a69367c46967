"""What a job would fail on later, found before anything is spent."""

from __future__ import annotations

from raycomp.data.batches import smallest_batch
from raycomp.errors import UserError
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import train_plan
from raycomp.runtime.pipeline import adabert
from raycomp.runtime.pipeline.finetune import too_many
from raycomp.runtime.pipeline.trackers import check_trackers
from raycomp.search.budget import cheapest_architecture
from raycomp.search.search_loop import infeasible_reason


def check(context: RunContext) -> None:
    """Refuse a job that would fail later: its settings, or a budget that cannot be met.

    Raises:
        UserError: with the nearest feasible value of every budget that cannot be met.
    """
    faults = _faults(context) + [why for why in unmet(context).values() if why]
    if faults:
        raise UserError("\n".join(faults))


def check_settings(context: RunContext) -> None:
    """Refuse what `check` refuses, budgets apart.

    Raises:
        UserError: schedule, teacher, workers or method would fail later.
    """
    if faults := _faults(context):
        raise UserError("\n".join(faults))


def unmet(context: RunContext) -> dict[str, str]:
    """Return for each budget why no architecture meets it, and the nearest value; else an empty text."""
    found = {}
    for budget in context.job.budget:
        least, limit = least_of(context, budget.kind), context.limit(budget)
        found[budget.name] = infeasible_reason(budget.name, budget.kind, limit, least)
    return found


def least_of(context: RunContext, kind: str) -> float:
    """Return the smallest figure of a budget's kind that the space holds."""
    return cheapest_architecture(context.space, lambda arch: float(context.costs.cost(kind, arch)))[1]


def _batches(context: RunContext) -> list[int]:
    """Return the rows of the smallest batch of each training that the job asks for."""
    job, rows = context.job, len(context.task.train)
    found = []
    if job.teacher.mode == "train" or not context.fine_tuned:
        found.append(smallest_batch(rows, job.teacher.batch_size))
    if "yoco" in job.run.methods:
        found.append(smallest_batch(rows, job.train.batch_size))
    if "adabert" in job.run.methods:
        size = job.settings(AdabertSettings).batch_size
        found.append(smallest_batch(rows, size))
        if (
            job.augment.copies
        ):  # equal copies are left out, so that the rows may be any number from `rows`
            found.append(smallest_batch(-(-rows // size) * size + 1, size))
    return found


def _faults(context: RunContext) -> list[str]:
    job = context.job
    check_trackers(job)
    if "yoco" in job.run.methods:
        train_plan(job, context.space, context.shape, len(context.task.train))
    found = []
    if job.teacher.mode == "as-is" and not context.fine_tuned:
        found.append(
            f"teacher.mode is as-is, but {job.model.name} holds no classifier for this task's "
            f"{context.task.num_labels} outputs; use teacher.mode = 'train'"
        )
    smallest = min(_batches(context))
    if job.train.workers > smallest:
        found.append(
            f"train.workers={job.train.workers} was given; the smallest batch has {smallest} rows, and "
            "every worker needs one: raise batch_size or lower train.workers"
        )
    if "adabert" in job.run.methods:
        found += adabert.faults(context)
    return found + too_many(context)

"""What a method costs: the rows of table `costs`.

Training, healing and scoring follow from the tables that a run has anyway. Other work is recorded when it
is done (`preparation_costs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from raycomp.methods.base import Method
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask
from raycomp.storage.files import read_json
from raycomp.storage.rows import CostRow
from raycomp.storage.tables import read_table

REUSED_BY = {"supernet": "yoco", "distillation_data": "adabert"}
"""Artifact that a run may take from another one -> the method whose work it is."""


def derive_teacher_costs(context: RunContext) -> list[dict[str, Any]]:
    """Return the row of the teacher's fine-tuning; none where the model was fine-tuned already."""
    if rows := _reused_rows(context, "teacher", "teacher"):
        return rows
    steps = read_table(context.run_dir, "steps")
    steps = steps[steps["method"] == "teacher"]
    if steps.empty:
        return []
    teacher = context.for_method("teacher")
    return [_training_row(teacher, "training", "teacher", steps).to_row()]


def derive_costs(context: RunContext, method: Method) -> list[dict[str, Any]]:
    """Return the rows of a method that has deployed its models, without those of its preparation.

    Args:
        context: The run's context, as the method has it.
        method: The method.
    """
    deployments = read_table(context.run_dir, "deployments")
    # A budget that was not met has no model that its share of the work could belong to.
    is_deployed = (deployments["method"] == context.method) & deployments["feasible"]
    deployments = deployments[is_deployed.astype(bool)]
    rows = [
        *_training_rows(context, method),
        *_healing_rows(context, method, deployments),
        *_scoring_rows(context, list(dict.fromkeys(deployments["budget"]))),
    ]
    reused = [
        row
        for artifact, name in REUSED_BY.items()
        if name == context.method
        for row in _reused_rows(context, artifact, name)
    ]
    return [row.to_row() for row in rows] + reused


def _reused_rows(context: RunContext, artifact: str, method: str) -> list[dict[str, Any]]:
    """Return the cost of an artifact that came from another run, as that run recorded it.

    A method costs the same whether or not another run did a part of its work.
    """
    if not context.layout.reused.exists():
        return []
    source = read_json(context.layout.reused).get(artifact)
    if source is None:
        return []
    # The other run may be gone: its table is then empty.
    rows = read_table(context.run_dir.parent / str(source), "costs")
    is_shared = (rows["method"] == method) & rows["budget"].isna() & (rows["work"] != "scoring")
    return [
        {str(name): value for name, value in row.items() if pd.notna(value)}
        | {"run": context.run_dir.name}
        for row in rows[is_shared].to_dict("records")
    ]


def _steps_of(context: RunContext, method: Method, *, healing: bool) -> pd.DataFrame:
    """Return the steps of a method's healing, or of all its other trainings."""
    steps = read_table(context.run_dir, "steps")
    steps = steps[steps["method"] == context.method]
    heal_tasks = [name for name, task in method.tasks.items() if issubclass(task, HealTask)]
    kinds = steps["training"].map(lambda name: str(name).partition(".")[0])
    return steps[kinds.isin(heal_tasks) == healing]


def _training_rows(context: RunContext, method: Method) -> list[CostRow]:
    steps = _steps_of(context, method, healing=False)
    rows = []
    for training, own in steps.groupby("training", sort=False):
        budget = method.budget_of(context, str(training))
        rows.append(_training_row(context, "training", str(training), own, budget))
    return rows


def _training_row(
    context: RunContext, work: str, part: str, steps: pd.DataFrame, budget: str | None = None
) -> CostRow:
    """Return the summed cost of training steps."""
    flops = _sum_or_none(steps["flops"])
    return CostRow(
        run=context.run_dir.name,
        method=context.method,
        work=work,
        part=part,
        budget=budget,
        count=len(steps),
        # A row has the tokens of one worker, and the workers share each batch evenly.
        tokens=int(steps["tokens"].sum()) * context.job.train.workers,
        flops=flops,
        passes=None if flops is None else flops / context.epoch_flops(),
        seconds=float(steps["seconds"].sum()),
    )


def _healing_rows(context: RunContext, method: Method, deployments: pd.DataFrame) -> list[CostRow]:
    """Return the cost of healing, divided among the budgets in proportion to their healed tokens."""
    steps = _steps_of(context, method, healing=True)
    if steps.empty:
        return []
    # Groups of networks share the teacher's pass, so one budget's part cannot be measured separately.
    whole = _training_row(context, "healing", "healing", steps)
    healed = deployments[deployments["heal_tokens"].fillna(0) > 0]
    total = float(healed["heal_tokens"].sum())
    if not total:
        return [whole]
    shares = (healed["heal_tokens"] / total).tolist()
    return [
        whole.part_of(share, budget)
        for budget, share in zip(healed["budget"].tolist(), shares, strict=True)
    ]


def _scoring_rows(context: RunContext, budgets: Sequence[str]) -> list[CostRow]:
    """Return the cost of all scores on the selection split.

    Networks that all budgets share are counted once. The others are divided evenly among the budgets.
    """
    evaluations = read_table(context.run_dir, "evaluations")
    evaluations = evaluations[evaluations["method"] == context.method]
    is_healed = evaluations["weights"] == "healed"
    inherited = evaluations[~is_healed]

    whole = _scoring_row(context, "search", inherited)
    shared = 1.0
    if budgets and len(inherited):
        shared = _count_shared(context, len(inherited)) / len(inherited)
    rows = [whole.part_of(shared, None)]
    rows += [whole.part_of((1 - shared) / len(budgets), budget) for budget in budgets]
    if is_healed.any() and budgets:
        healed = _scoring_row(context, "healed", evaluations[is_healed])
        rows += [healed.part_of(1 / len(budgets), budget) for budget in budgets]
    return [row for row in rows if row.flops]


def _scoring_row(context: RunContext, part: str, evaluations: pd.DataFrame) -> CostRow:
    """Return the summed cost of scored networks."""
    lengths = context.tokens("selection").lengths
    # FLOPs of the table are those of a text of `flops_length` tokens.
    share = float(lengths.mean()) / context.flops_length
    flops = float((evaluations["flops"] * evaluations["examples"]).sum()) * share
    return CostRow(
        run=context.run_dir.name,
        method=context.method,
        work="scoring",
        part=part,
        count=len(evaluations),
        tokens=int(lengths.sum()) * len(evaluations),
        flops=flops,
        passes=flops / context.epoch_flops(),
        seconds=float(evaluations["seconds"].sum()),
    )


def _count_shared(context: RunContext, scored: int) -> float:
    """Return how many of the scored networks serve all budgets.

    Every trial of a search counts the networks that it shares with the others. The surplus over the
    networks that were scored is therefore that number, once for each trial but one.
    """
    outcomes = [read_json(path) for path in context.files.search_outcomes()]
    if len(outcomes) > 1:
        counted = sum(int(outcome["evaluations"]) for outcome in outcomes)
        return float(min(scored, max(0.0, (counted - scored) / (len(outcomes) - 1))))
    if outcomes:
        return 0.0
    # Without a search, a super-network's scored networks are candidates of every budget.
    return float(scored) if context.files.supernet_network.exists() else 0.0


def _sum_or_none(column: pd.Series[Any]) -> float | None:
    """Return the sum of a column; None if a value is missing (steps of an earlier version)."""
    return None if column.isna().any() else float(column.sum())

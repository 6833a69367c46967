"""The teacher's scores, and the cost of the full network, from a run's tables."""

from __future__ import annotations

from raycomp.config.budget import parse_quantity
from raycomp.report.loading import RunTables
from raycomp.report.run_record import RunRecord


def list_teacher_scores(tables: RunTables) -> list[float]:
    """Return the different validation scores of the runs' teachers, in ascending order."""
    scores = {run.teacher_score("validation") for run in tables.runs}
    return sorted(score for score in scores if score is not None)


def derive_teacher_costs(tables: RunTables, run: RunRecord) -> dict[str, float | None]:
    """Return `params`, `flops` and `latency_ms` of a run's teacher; None if the tables do not tell."""
    run_tables = tables.of(run.name)
    deployed = run_tables.deployments[run_tables.deployments["params_ratio"].notna()]
    # Tables do not have a row for the teacher; every deployment has its ratio to the teacher.
    params = None
    if len(deployed):
        params = float((deployed["params"] / deployed["params_ratio"]).iloc[0].round())

    # The largest sub-network is the teacher's architecture, so its row has the teacher's FLOPs.
    evaluations = run_tables.evaluations
    is_full = (evaluations["params"] == params) & (evaluations["method"] == "yoco")
    flops = _flops_of_budget(run_tables, run)
    if is_full.any():
        flops = float(evaluations[is_full]["flops"].iloc[0])
    return {"params": params, "flops": flops, "latency_ms": run.teacher_latency_ms}


def _flops_of_budget(run_tables: RunTables, run: RunRecord) -> float | None:
    """Return the full network's FLOPs from a budget that is a multiple of them, such as "0.5x"."""
    budgets = run.job.get("budget")
    if not isinstance(budgets, list):
        return None

    deployments = run_tables.deployments
    for row in deployments[deployments["kind"] == "flops"].to_dict("records"):
        for budget in budgets:
            limit = budget.get("flops") if budget.get("name") == row["budget"] else None
            if isinstance(limit, str) and limit.strip().endswith("x"):
                return float(row["limit"] / parse_quantity(limit, 1.0))
    return None

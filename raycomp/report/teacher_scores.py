"""What the tables tell of the teacher: its scores, and what the full network costs."""

from __future__ import annotations

from raycomp.config.section import parse_quantity
from raycomp.report.loading import RunRecord, RunTables


def list_teacher_scores(tables: RunTables) -> list[float]:
    """Return each different validation score of the runs' teachers, ascending."""
    scores = {run.teacher_score("validation") for run in tables.runs}
    return sorted(s for s in scores if s is not None)


def derive_teacher_costs(tables: RunTables, run: RunRecord) -> dict[str, float | None]:
    """Return params, FLOPs and latency of a run's teacher; None where the tables do not tell."""
    mine = tables.of(run.name)
    made = mine.deployments[mine.deployments["params_ratio"].notna()]
    params = float((made["params"] / made["params_ratio"]).iloc[0].round()) if len(made) else None
    full = mine.evaluations[mine.evaluations["params"] == params]
    full = full[full["method"] == "yoco"]
    flops = float(full["flops"].iloc[0]) if len(full) else _flops_of_budget(mine, run)
    return {"params": params, "flops": flops, "latency_ms": run.teacher_latency_ms}


def _flops_of_budget(mine: RunTables, run: RunRecord) -> float | None:
    """Read the full network's FLOPs off a budget that was given relative to them."""
    given = run.job.get("budget")
    for row in mine.deployments[mine.deployments["kind"] == "flops"].to_dict("records"):
        for budget in given if isinstance(given, list) else []:
            text = budget.get("flops") if budget.get("name") == row["budget"] else None
            if isinstance(text, str) and text.strip().endswith("x"):
                return float(row["limit"] / parse_quantity(text, 1.0))
    return None

"""The cost columns of a study: what each variant's methods cost in passes, tokens and seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.report.cost_table import UNIT, MethodCost, format_passes
from raycomp.report.formatting import format_count, format_number
from raycomp.report.study_results import StudyResults, as_study_results
from raycomp.report.text_table import TextTable

PASSES = ("once", "budgets", "scoring", "total", "marginal")
"""Columns of a cost in passes, as in `raycomp.report.cost_table.COST_MEANINGS`."""

METHOD_METRICS = ("passes", "tokens", "work_seconds")
"""Metrics of a method's cost, in table `ablations`. The other costs are those of stages."""

COLUMNS = ("variant", "task", *PASSES, "tokens", "seconds", "seeds")


def list_cost_rows(cost: MethodCost) -> list[dict[str, Any]]:
    """Return a method's cost as rows of table `ablations`."""
    rows = [{"stage": name, "metric": "passes", "value": float(getattr(cost, name))} for name in PASSES]
    rows.append({"stage": "total", "metric": "tokens", "value": cost.tokens})
    # "seconds" are those of the stages, which include starts and exports.
    rows.append({"stage": "total", "metric": "work_seconds", "value": cost.seconds})
    return [{"kind": "cost", "method": cost.method, **row} for row in rows]


def method_cost_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return the mean cost of each variant's method, without the teacher's fine-tuning.

    Args:
        study: A study, or its directory.

    Returns:
        Columns COLUMNS; means over the seeds. Empty for studies of versions that did not count costs.
    """
    results = as_study_results(study)
    frame = results.frame[(results.frame["kind"] == "cost") & (results.frame["method"] != "teacher")]
    frame = frame[frame["metric"].isin(METHOD_METRICS)]
    table = []
    for task in results.tasks:
        for variant in results.variants:
            rows = frame[(frame["task"] == task) & (frame["variant"] == variant)]
            if rows.empty:
                continue
            # One row for each seed, metric and column of the table.
            means = rows.groupby(["metric", "stage"])["value"].mean()
            passes = {name: float(means["passes", name]) for name in PASSES}
            totals = {
                "tokens": float(means["tokens", "total"]),
                "seconds": float(means["work_seconds", "total"]),
            }
            seeds = rows["seed"].nunique()
            table.append({"variant": variant, "task": task, **passes, **totals, "seeds": seeds})
    return pd.DataFrame(table, columns=list(COLUMNS))


def build_cost_tables(study: StudyResults) -> list[TextTable]:
    """Return the costs of all variants as one table; none where no run counted them."""
    table = method_cost_table(study)
    if table.empty:
        return []
    body = [
        [
            str(row["variant"]),
            str(row["task"]),
            *(format_passes(row[name]) for name in PASSES),
            format_count(row["tokens"]),
            format_number(row["seconds"], 0),
            str(row["seeds"]),
        ]
        for row in table.to_dict("records")
    ]
    title = f"Cost, mean over seeds. {UNIT} The teacher's own fine-tuning is not included."
    return [TextTable(title, list(COLUMNS), body, named=2)]

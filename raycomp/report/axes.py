"""The axes of the Pareto plot: a cost axis with the budgets' limits, and the score axis."""

from __future__ import annotations

from typing import Any

import pandas as pd

from raycomp.report.formatting import is_finite_number
from raycomp.report.loading import RunTables
from raycomp.report.plot import build_axis, escape_label, horizontal_line, vertical_line
from raycomp.report.teacher_scores import list_teacher_scores

COSTS = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency"}


def build_cost_axis(tables: RunTables, deployed: pd.DataFrame, cost: str) -> dict[str, Any]:
    """Return plotly's layout for one cost: the x axis, and lines for the budgets and the teachers.

    Args:
        tables: Tables of comparable runs.
        deployed: Their deployed models.
        cost: A key of COSTS.
    """
    flops_lengths = {run.length for run in tables.runs}
    lengths = {run.setting("task", "max_length") for run in tables.runs}
    title = {
        "params": "params (parameters of the whole model)",
        "flops": f"flops (FLOPs of one forward pass{_name_length(flops_lengths)})",
        "latency_ms": f"latency_ms (median forward pass on a CPU, ms{_name_length(lengths)})",
    }[cost]

    lines = [horizontal_line(score) for score in list_teacher_scores(tables)]
    notes = []
    for limit, names in find_budget_lines(deployed, cost):
        lines.append(vertical_line(limit))
        note = {"x": limit, "y": 1, "yref": "paper", "text": escape_label(names), "showarrow": False}
        notes.append({**note, "textangle": -90, "xanchor": "left", "yanchor": "top"})

    ticks = {"rangemode": "tozero"} if cost == "latency_ms" else {"tickformat": "~s"}
    return {"xaxis": build_axis(title, **ticks), "shapes": lines, "annotations": notes}


def _name_length(lengths: set[Any]) -> str:
    """Return the sequence length if all runs have the same."""
    length = next(iter(lengths)) if len(lengths) == 1 else None
    return f", {length} tokens" if is_finite_number(length) else ""


def find_budget_lines(deployed: pd.DataFrame, cost: str) -> list[tuple[float, str]]:
    """Return the position and the names of every budget that a cost axis can show.

    A limit on the Transformer layers (`encoder_params`) is drawn on the axis of parameters. The
    parameters outside of the layers are added to it, if all of a run's sub-networks have the same number
    of them.
    """
    positions: dict[tuple[Any, float], None] = {}  # a dictionary keeps the order and drops repetitions
    for _, rows in deployed.groupby("run", sort=False):
        # Embeddings, pooler and classifier are the same for all sub-networks of a run.
        subnetworks = rows[rows["method"] == "yoco"]
        other_params = (subnetworks["params"] - subnetworks["encoder_params"]).dropna().unique()
        for row in rows.to_dict("records"):
            # The axis of latencies shows torch on one thread, which is not the runtime of a budget.
            if row["kind"] == cost and cost != "latency_ms":
                positions[row["budget"], float(row["limit"])] = None
            elif row["kind"] == "encoder_params" and cost == "params" and len(other_params) == 1:
                positions[row["budget"], float(row["limit"] + other_params[0])] = None

    names: dict[float, list[str]] = {}
    for name, limit in positions:
        names.setdefault(limit, []).append(str(name))
    return [(limit, ", ".join(equal)) for limit, equal in names.items()]


def build_score_axis(
    tables: RunTables, deployed: pd.DataFrame, evaluated: pd.DataFrame, metric: str
) -> tuple[dict[str, Any], int]:
    """Return the y axis, and the number of evaluated architectures below it.

    The axis begins at the tenth percentile, because a few bad architectures would flatten the rest.

    Args:
        tables: Tables of comparable runs.
        deployed: Their deployed models.
        evaluated: The evaluated architectures that are drawn.
        metric: Name of the metric.
    """
    if deployed.empty or evaluated.empty:
        return build_axis(escape_label(metric)), 0

    low = min(deployed["validation"].min(), evaluated["value"].quantile(0.1))
    high = max([deployed["validation"].max(), evaluated["value"].max(), *list_teacher_scores(tables)])
    # Architectures below the margin are counted, and a double click shows them.
    margin = 0.15 * (high - low) + 0.01
    num_below = int((evaluated["value"] < low - margin).sum())
    axis = build_axis(escape_label(metric), range=[float(low - margin), float(high + margin)])
    return axis, num_below

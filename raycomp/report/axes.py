"""The axes of the Pareto plot: costs with the budgets' lines, and the score."""

from __future__ import annotations

from typing import Any

import pandas as pd

from raycomp.report.formatting import is_finite_number
from raycomp.report.loading import RunTables
from raycomp.report.plot import GREY, build_axis, escape_label
from raycomp.report.teacher_scores import list_teacher_scores

COSTS = {"params": "parameters", "flops": "FLOPs", "latency_ms": "p50 latency"}


def build_cost_axis(tables: RunTables, deployed: pd.DataFrame, cost: str) -> dict[str, Any]:
    """Return the x axis of one cost, with the budgets' and the teachers' lines."""
    flops_lengths = {run.length for run in tables.runs}
    lengths = {run.setting("task", "max_length") for run in tables.runs}
    title = {
        "params": "parameters",
        "flops": f"FLOPs{_of_length(flops_lengths)}",
        "latency_ms": f"p50 latency, ms{_of_length(lengths)}",
    }[cost]
    line = {"type": "line", "line": {"width": 1, "dash": "dot", "color": GREY}, "layer": "below"}
    shapes = [
        {**line, "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
        for value in list_teacher_scores(tables)
    ]
    notes = []
    for limit, name in find_budget_lines(deployed, cost):
        shapes.append({**line, "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit})
        note = {"x": limit, "y": 1, "yref": "paper", "text": escape_label(name), "showarrow": False}
        notes.append({**note, "textangle": -90, "xanchor": "left", "yanchor": "top"})
    ticks = {"tickformat": "~s"} if cost != "latency_ms" else {"rangemode": "tozero"}
    return {"xaxis": build_axis(title, **ticks), "shapes": shapes, "annotations": notes}


def _of_length(lengths: set[Any]) -> str:
    length = next(iter(lengths)) if len(lengths) == 1 else None
    return f" ({length} tokens)" if is_finite_number(length) else ""


def find_budget_lines(deployed: pd.DataFrame, cost: str) -> list[tuple[float, str]]:
    """Return (limit, name) of every budget that can be drawn on a cost axis.

    A limit on the Transformer layers is drawn on the axis of parameters, raised by what the model
    has beside them, if that is the same for all of a run's sub-networks.
    """
    found: dict[tuple[Any, float], None] = {}  # in order, each once
    for _, rows in deployed.groupby("run", sort=False):
        subnetworks = rows[rows["method"] == "yoco"]
        beside = (subnetworks["params"] - subnetworks["encoder_params"]).dropna().unique()
        for row in rows.to_dict("records"):
            if row["kind"] == cost:
                found[row["budget"], float(row["limit"])] = None
            elif row["kind"] == "encoder_params" and cost == "params" and len(beside) == 1:
                found[row["budget"], float(row["limit"] + beside[0])] = None
    names: dict[float, list[str]] = {}
    for name, limit in found:
        names.setdefault(limit, []).append(str(name))
    return [(limit, ", ".join(same)) for limit, same in names.items()]


def build_score_axis(
    tables: RunTables, deployed: pd.DataFrame, drawn: pd.DataFrame, metric: str
) -> tuple[dict[str, Any], int]:
    """Return the y axis, and how many evaluated architectures lie below it.

    It begins so that a few bad points do not flatten the rest.
    """
    if deployed.empty or drawn.empty:
        return build_axis(escape_label(metric)), 0
    low = min(deployed["validation"].min(), drawn["value"].quantile(0.1))
    high = max([deployed["validation"].max(), drawn["value"].max(), *list_teacher_scores(tables)])
    room = 0.15 * (high - low) + 0.01
    below = int((drawn["value"] < low - room).sum())
    return build_axis(escape_label(metric), range=[float(low - room), float(high + room)]), below

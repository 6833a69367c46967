"""The traces of the Pareto plot: evaluated and deployed architectures, teachers, and the front.

A trace has one entry for each key of COSTS: the patch that puts it on that cost axis.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from raycomp.report.axes import COSTS
from raycomp.report.formatting import (
    describe_architecture,
    format_count,
    format_latency,
    format_score,
)
from raycomp.report.loading import RunTables
from raycomp.report.pareto_front import find_pareto_front
from raycomp.report.plot import GREY, PALETTE, escape_label, method_color, method_marker, round_values
from raycomp.report.teacher_scores import derive_teacher_costs
from raycomp.report.uncertainty import BINOMIAL, effective_examples, standard_error

DENSE = 500  # evaluated architectures from which on they are drawn fainter


def build_traces(
    tables: RunTables, deployed: pd.DataFrame, evaluated: pd.DataFrame, metric: str
) -> list[dict[str, Any]]:
    """Return plotly's traces of the Pareto plot.

    Args:
        tables: Tables of comparable runs.
        deployed: Their deployed models.
        evaluated: The evaluated architectures to draw.
        metric: Name of the metric.
    """
    return [
        *_trace_evaluated(evaluated, len(tables.runs) > 1),
        *_trace_deployed(tables, deployed, metric),
        *_trace_teachers(tables),
        _trace_front(deployed),
    ]


def build_points(name: str, texts: list[str], scores: pd.Series) -> dict[str, Any]:
    """Return a trace of marks without its x coordinates."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape_label(name),
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "y": round_values(scores),
    }


def join_lines(lines: list[str], run: str | None = None) -> str:
    """Return lines as one label of plotly, after the name of the run if the plot has several."""
    if run is not None:
        lines = [run, *lines]
    return "<br>".join(escape_label(line) for line in lines)


def _trace_evaluated(evaluated: pd.DataFrame, has_several_runs: bool) -> list[dict[str, Any]]:
    """Return one trace for each method's evaluated architectures."""
    traces = []
    for method, rows in evaluated.groupby("method", sort=False):
        texts = []
        for row in rows.to_dict("records"):
            figures = f"selection {format_score(row['value'])} · {format_count(row['params'])} params"
            kind = "healed network" if row["weights"] == "healed" else "evaluated"
            lines = [
                f"{row['method']}, {kind} on selection",
                f"{figures} · {format_count(row['flops'])} FLOPs",
                *describe_architecture(row["arch"]),
            ]
            texts.append(join_lines(lines, str(row["run"]) if has_several_runs else None))

        trace = build_points(f"{method}, evaluated (selection)", texts, rows["value"])
        trace["marker"] = {
            "color": method_color(str(method)),
            "symbol": method_marker(str(method)),
            "size": 6,
            "opacity": 0.45 if len(evaluated) < DENSE else 0.2,
        }
        trace["params"] = {"x": round_values(rows["params"], 6), "visible": True}
        trace["flops"] = {"x": round_values(rows["flops"], 6), "visible": True}
        trace["latency_ms"] = {"visible": False}
        traces.append(trace)
    return traces


def _trace_deployed(tables: RunTables, deployed: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """Return one trace for each run or study variant and each method."""
    has_several_runs = len(tables.runs) > 1
    groups = _group_runs(tables)
    examples = {run.name: run.examples("validation") for run in tables.runs}
    names = dict.fromkeys(groups.values())
    colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}

    traces = []
    deployed = deployed.assign(group=deployed["run"].map(groups))
    for (group, method), rows in deployed.groupby(["group", "method"], sort=False):
        name = f"{method}, deployed (validation)"
        colour = method_color(str(method))
        if has_several_runs:
            name = f"{group}: {name}"
            colour = colours[str(group)]

        texts = [_deployed_text(row, has_several_runs) for row in rows.to_dict("records")]
        trace = build_points(name, texts, rows["validation"])
        if metric in BINOMIAL and all(examples[run] for run in rows["run"]):
            pairs = zip(rows["validation"], rows["run"], strict=True)
            errors = [standard_error(value, effective_examples(examples[run])) for value, run in pairs]
            trace["error_y"] = {"array": round_values(errors), "thickness": 1, "width": 4}
        trace["marker"] = {
            "color": colour,
            "symbol": method_marker(str(method)),
            "size": 13,
            "line": {"width": 1.5, "color": "#ffffff"},
        }
        for cost in COSTS:
            trace[cost] = {"x": round_values(rows[cost], 6)}
        traces.append(trace)
    return traces


def _group_runs(tables: RunTables) -> dict[str, str]:
    """Return run -> the name of its trace.

    The seeds of a study's variant are one trace. A run that is not in a study is a trace of its own.
    """
    groups = {run.name: run.name for run in tables.runs}
    for row in tables.ablations.drop_duplicates("run").to_dict("records"):
        if row["run"] in groups:
            groups[row["run"]] = f"{row['study']} {row['variant']}"
    return groups


def _deployed_text(row: dict[Any, Any], has_several_runs: bool) -> str:
    costs = [f"{format_count(row['params'])} params", f"{format_count(row['flops'])} FLOPs"]
    latency = format_latency(row["latency_ms"])
    if latency:
        costs.append(latency)

    title = f"<b>{escape_label(row['method'])} {escape_label(row['budget'])}</b>"
    scores = f"validation {format_score(row['validation'])} · selection {format_score(row['selection'])}"
    body = join_lines([scores, " · ".join(costs), *describe_architecture(row["arch"])])
    lines = [title, body]
    if has_several_runs:
        lines = [escape_label(row["run"]), *lines]
    return "<br>".join(lines)


def _trace_teachers(tables: RunTables) -> list[dict[str, Any]]:
    """Return a trace with a star for each teacher, on the axes where its cost is known."""
    # Equal teachers are one star, although each run measured its own latency.
    costs_of_teacher: dict[tuple[float | None, ...], dict[str, float | None]] = {}
    runs_of_teacher: dict[tuple[float | None, ...], list[str]] = {}
    for run in tables.runs:
        score = run.teacher_score("validation")
        if score is None:
            continue
        costs = derive_teacher_costs(tables, run)
        key: tuple[float | None, ...] = (score, costs["params"], costs["flops"])
        costs_of_teacher.setdefault(key, costs)
        runs_of_teacher.setdefault(key, []).append(run.name)
    if not costs_of_teacher:
        return []

    texts = []
    for key, costs in costs_of_teacher.items():
        figures = []
        if costs["params"] is not None:
            figures.append(f"{format_count(costs['params'])} params")
        if costs["flops"] is not None:
            figures.append(f"{format_count(costs['flops'])} FLOPs")
        if costs["latency_ms"] is not None:
            figures.append(format_latency(costs["latency_ms"]))
        lines = ["teacher", f"validation {format_score(key[0])}", " · ".join(figures)]
        texts.append(join_lines(lines, ", ".join(runs_of_teacher[key]) if len(tables.runs) > 1 else None))

    scores = pd.Series([key[0] for key in costs_of_teacher], dtype=float)
    trace = build_points("teacher (validation)", texts, scores)
    trace["marker"] = {"color": GREY, "symbol": "star", "size": 15}
    for cost in COSTS:
        trace[cost] = {"x": [costs[cost] for costs in costs_of_teacher.values()]}
    return [trace]


def _trace_front(deployed: pd.DataFrame) -> dict[str, Any]:
    """Return the front of the deployed models as a stepped line."""
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": "front of validation",
        "line": {"shape": "hv", "width": 1.5, "color": GREY},
        "hoverinfo": "skip",
    }
    for cost in COSTS:
        rows = find_pareto_front(deployed, "validation", cost)
        trace[cost] = {"x": round_values(rows[cost], 6), "y": round_values(rows["validation"])}
    return trace

"""The Pareto plot: what was deployed and what was evaluated, over a cost that the reader chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.report.axes import COSTS, build_cost_axis, build_score_axis
from raycomp.report.formatting import describe_architecture, format_count, format_latency, format_score
from raycomp.report.loading import RunTables
from raycomp.report.pareto_front import find_pareto_front
from raycomp.report.plot import (
    GREY,
    METHODS,
    PALETTE,
    SYMBOLS,
    Plot,
    base_layout,
    build_axis,
    escape_label,
    round_values,
)
from raycomp.report.teacher_scores import derive_teacher_costs
from raycomp.report.uncertainty import BINOMIAL, effective_examples, standard_error

MOST_NAMED = 12  # of the front, in words


def draw_pareto_plot(tables: RunTables, metric: str, most: int) -> Plot | None:
    """Draw deployments (validation) and evaluated architectures (selection) of comparable runs.

    Args:
        tables: of runs with one task and one metric.
        metric: its name.
        most: evaluated architectures to draw; above it, the best and an even sample.

    Returns:
        None where nothing is evaluated or deployed yet.
    """
    deployed = tables.deployments[tables.deployments["validation"].notna()]
    evaluated = select_evaluations(tables, metric)
    if deployed.empty and evaluated.empty:
        return None
    drawn = _thinned(evaluated, most)
    traces = [
        *_evaluated(drawn, len(tables.runs) > 1),
        *_deployed(tables, deployed, metric),
        *_teachers(tables),
        _front(deployed),
    ]
    y, below = build_score_axis(tables, deployed, drawn, metric)
    every = {cost: {"yaxis": y, **build_cost_axis(tables, deployed, cost)} for cost in COSTS}
    every["latency_ms"]["yaxis"] = build_axis(
        escape_label(metric)
    )  # there, evaluated architectures are not drawn
    variants: dict[str, Any] = {
        cost: {"data": [t.pop(cost) for t in traces], "layout": every[cost]} for cost in COSTS
    }
    figure = go.Figure(
        [{**t, **patch} for t, patch in zip(traces, variants["params"]["data"], strict=True)],
        base_layout(540, hovermode="closest", **every["params"]),
    )
    summary = _summary(tables, deployed, evaluated, drawn, metric, below)
    return Plot("Pareto front", summary, figure, dict(COSTS), variants)


def select_evaluations(tables: RunTables, metric: str) -> pd.DataFrame:
    """Return the architectures that were scored on `selection` with one metric."""
    frame = tables.evaluations
    chosen = (frame["split"] == "selection") & (frame["metric"] == metric) & frame["value"].notna()
    return frame[chosen]


def _thinned(evaluated: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep the fronts of selection, and rows evenly spaced by parameters."""
    if len(evaluated) <= most:
        return evaluated
    fronts = pd.concat([find_pareto_front(evaluated, "value", cost) for cost in ("params", "flops")])
    fronts = fronts[~fronts.index.duplicated()].head(most // 2)
    rest = evaluated.drop(index=fronts.index).sort_values("params", kind="stable")
    chosen = np.linspace(0, len(rest) - 1, most - len(fronts)).round().astype(int)
    return pd.concat([fronts, rest.iloc[np.unique(chosen)]])


def _evaluated(drawn: pd.DataFrame, several: bool) -> list[dict[str, Any]]:
    traces = []
    for method, rows in drawn.groupby("method", sort=False):
        texts = []
        for row in rows.to_dict("records"):
            head = f"{row['method']}, evaluated on selection"
            figures = f"selection {format_score(row['value'])} · {format_count(row['params'])} params"
            lines = [
                head,
                f"{figures} · {format_count(row['flops'])} FLOPs",
                *describe_architecture(row["arch"]),
            ]
            texts.append("<br>".join(escape_label(line) for line in [*[row["run"]] * several, *lines]))
        traces.append(
            {
                **_points(f"{method}, evaluated (selection)", texts, rows["value"]),
                "marker": {
                    "color": METHODS.get(str(method), GREY),
                    "symbol": SYMBOLS.get(str(method), "circle"),
                    "size": 6,
                    "opacity": 0.45 if len(drawn) < 500 else 0.2,
                },
                "params": {"x": round_values(rows["params"], 6), "visible": True},
                "flops": {"x": round_values(rows["flops"], 6), "visible": True},
                "latency_ms": {"visible": False},
            }
        )
    return traces


def _deployed(tables: RunTables, deployed: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    traces, several = [], len(tables.runs) > 1
    groups, examples = _groups(tables), {run.name: run.examples("validation") for run in tables.runs}
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(groups.values()))}
    deployed = deployed.assign(group=deployed["run"].map(groups))
    for keys, rows in deployed.groupby(["group", "method"], sort=False):
        group, method = map(str, keys)
        error: dict[str, Any] = {}
        if metric in BINOMIAL and all(examples[run] for run in rows["run"]):
            pairs = zip(rows["validation"], rows["run"], strict=True)
            errors = [standard_error(value, effective_examples(examples[run])) for value, run in pairs]
            error = {"error_y": {"array": round_values(errors), "thickness": 1, "width": 4}}
        name = f"{method}, deployed (validation)"
        traces.append(
            {
                **_points(
                    f"{group}: {name}" if several else name,
                    [_deployed_text(row, several) for row in rows.to_dict("records")],
                    rows["validation"],
                ),
                **error,
                "marker": {
                    "color": colours[group] if several else METHODS.get(method, GREY),
                    "symbol": SYMBOLS.get(method, "square"),
                    "size": 13,
                    "line": {"width": 1.5, "color": "#ffffff"},
                },
                **{cost: {"x": round_values(rows[cost], 6)} for cost in COSTS},
            }
        )
    return traces


def _groups(tables: RunTables) -> dict[str, str]:
    """Return what each run is drawn as: the variant of its study, with its other seeds; else itself."""
    groups = {run.name: run.name for run in tables.runs}
    for row in tables.ablations.drop_duplicates("run").to_dict("records"):
        if row["run"] in groups:
            groups[row["run"]] = f"{row['study']} {row['variant']}"
    return groups


def _deployed_text(row: dict[Any, Any], several: bool) -> str:
    costs = [f"{format_count(row['params'])} params", f"{format_count(row['flops'])} FLOPs"]
    lines = [
        f"validation {format_score(row['validation'])} · selection {format_score(row['selection'])}",
        " · ".join([*costs, *filter(None, [format_latency(row["latency_ms"])])]),
        *describe_architecture(row["arch"]),
    ]
    head = f"<b>{escape_label(row['method'])} {escape_label(row['budget'])}</b>"
    return "<br>".join(
        [*[escape_label(row["run"])] * several, head, *(escape_label(line) for line in lines)]
    )


def _points(name: str, texts: list[str], y: pd.Series) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape_label(name),
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "y": round_values(y),
    }


def _teachers(tables: RunTables) -> list[dict[str, Any]]:
    """Draw each teacher as a star, on the axes where its cost is known."""
    found: dict[tuple[float | None, ...], dict[str, float | None]] = {}
    names: dict[tuple[float | None, ...], list[str]] = {}
    for run in tables.runs:
        costs = derive_teacher_costs(tables, run)
        value = run.teacher_score("validation")
        if value is not None:  # equal teachers are one star, though their latencies were measured apart
            key: tuple[float | None, ...] = (value, costs["params"], costs["flops"])
            found.setdefault(key, costs)
            names.setdefault(key, []).append(run.name)
    several = len(tables.runs) > 1
    texts = []
    for which, costs in found.items():
        known = [("params", " params"), ("flops", " FLOPs")]
        figures = [format_count(costs[k]) + unit for k, unit in known if costs[k] is not None]
        figures += filter(None, [format_latency(costs["latency_ms"])])
        lines = ["teacher", f"validation {format_score(which[0])}", " · ".join(figures)]
        texts.append("<br>".join(escape_label(t) for t in [*[", ".join(names[which])] * several, *lines]))
    trace = {
        **_points("teacher (validation)", texts, pd.Series([k[0] for k in found], dtype=float)),
        "marker": {"color": GREY, "symbol": "star", "size": 15},
    }
    for cost in COSTS:
        trace[cost] = {"x": [costs[cost] for costs in found.values()]}
    return [trace] if found else []


def _front(deployed: pd.DataFrame) -> dict[str, Any]:
    """Draw the front of the deployments as a step line: what is right of and below it is beaten."""
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


def _summary(
    tables: RunTables,
    deployed: pd.DataFrame,
    evaluated: pd.DataFrame,
    drawn: pd.DataFrame,
    metric: str,
    below: int,
) -> str:
    said = []
    if len(deployed):
        on = find_pareto_front(deployed, "validation", "params").to_dict("records")
        several = len(tables.runs) > 1
        points = "; ".join(
            f"{r['run'] + ' ' if several else ''}{r['method']} {r['budget']}, "
            f"{format_count(r['params'])} params, {format_score(r['validation'])}"
            for r in on[:MOST_NAMED]
        )
        points += f"; and {len(on) - MOST_NAMED} more" if len(on) > MOST_NAMED else ""
        said.append(f"On the front of {metric} over parameters: {points}.")
    bars = metric in BINOMIAL and any(r.examples("validation") for r in tables.runs)
    said.append(
        "Large marks are deployed models, at their score on validation"
        + (", bars one standard error" if bars else "")
        + "; faint marks are evaluated architectures, at their score on selection, which has other "
        "examples: compare marks of one kind. The star and the dotted line across are the teacher, "
        "upright lines the budgets."
    )
    if (deployed["kind"] == "encoder_params").any():
        said.append(
            "A limit on the Transformer layers is drawn on the axis of parameters with embeddings, "
            "pooler and classifier added."
        )
    if len(drawn) < len(evaluated):
        said.append(
            f"{len(drawn):,} of {len(evaluated):,} evaluated architectures are drawn: the fronts of "
            "selection, and the rest evenly spaced by parameters."
        )
    if below:
        said.append(f"Below the axis: {below:,} of the faint marks; a double click shows them.")
    if len(drawn):
        said.append("Only deployed models have a measured latency.")
    return " ".join(said)

"""The Pareto plot: what was deployed and what was evaluated, over a cost that the reader chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.report.front import pareto
from raycomp.report.load import Tables
from raycomp.report.plot import GREY, METHODS, PALETTE, SYMBOLS, Plot, axis, layout, numbers, plain
from raycomp.report.teacher import teacher_costs, teacher_scores
from raycomp.report.uncertainty import BINOMIAL, pooled, standard_error
from raycomp.report.words import describe, known, milliseconds, score, short

MOST_NAMED = 12  # of the front, in words
COSTS = {"params": "parameters", "flops": "FLOPs", "latency_ms": "p50 latency"}


def front_plot(tables: Tables, metric: str, most: int) -> Plot | None:
    """Draw deployments (validation) and evaluated architectures (selection) of comparable runs.

    Args:
        tables: of runs with one task and one metric.
        metric: its name.
        most: evaluated architectures to draw; above it, the best and an even sample.

    Returns:
        None where nothing is evaluated or deployed yet.
    """
    deployed = tables.deployments[tables.deployments["validation"].notna()]
    evaluated = evaluations(tables, metric)
    if deployed.empty and evaluated.empty:
        return None
    drawn = _thinned(evaluated, most)
    traces = [
        *_evaluated(drawn, len(tables.runs) > 1),
        *_deployed(tables, deployed, metric),
        *_teachers(tables),
        _front(deployed),
    ]
    variants: dict[str, Any] = {
        cost: {"data": [t.pop(cost) for t in traces], "layout": _axis_of(tables, deployed, cost)}
        for cost in COSTS
    }
    low, below = _lowest(deployed, drawn)
    frame: dict[str, Any] = {
        "yaxis": axis(plain(metric), range=[low, _highest(tables, deployed, drawn)]),
        "hovermode": "closest",
        **variants["params"]["layout"],
    }
    figure = go.Figure(
        [{**t, **patch} for t, patch in zip(traces, variants["params"]["data"], strict=True)],
        layout(540, **frame),
    )
    summary = _summary(tables, deployed, evaluated, drawn, metric, below)
    return Plot("Pareto front", summary, figure, dict(COSTS), variants)


def evaluations(tables: Tables, metric: str) -> pd.DataFrame:
    """Return the architectures that were scored on `selection` with one metric."""
    frame = tables.evaluations
    chosen = (frame["split"] == "selection") & (frame["metric"] == metric) & frame["value"].notna()
    return frame[chosen]


def _thinned(evaluated: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep the fronts of selection, and rows evenly spaced by parameters."""
    if len(evaluated) <= most:
        return evaluated
    fronts = pd.concat([pareto(evaluated, "value", cost) for cost in ("params", "flops")])
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
            figures = f"selection {score(row['value'])} · {short(row['params'])} params"
            lines = [head, f"{figures} · {short(row['flops'])} FLOPs", *describe(row["arch"])]
            texts.append("<br>".join(plain(line) for line in [*[row["run"]] * several, *lines]))
        traces.append(
            {
                **_points(f"{method}, evaluated (selection)", texts, rows["value"]),
                "marker": {
                    "color": METHODS.get(str(method), GREY),
                    "symbol": SYMBOLS.get(str(method), "circle"),
                    "size": 6,
                    "opacity": 0.45,
                },
                "params": {"x": numbers(rows["params"], 6), "visible": True},
                "flops": {"x": numbers(rows["flops"], 6), "visible": True},
                "latency_ms": {"visible": False},
            }
        )
    return traces


def _deployed(tables: Tables, deployed: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    traces = []
    colours = {run.name: PALETTE[i % len(PALETTE)] for i, run in enumerate(tables.runs)}
    for keys, rows in deployed.groupby(["run", "method"], sort=False):
        run, method = map(str, keys)
        several = len(tables.runs) > 1
        counts = tables.of(run).runs[0].examples("validation")
        error: dict[str, Any] = {}
        if metric in BINOMIAL and counts:
            errors = [standard_error(v, pooled(counts)) for v in rows["validation"]]
            error = {"error_y": {"array": numbers(errors), "thickness": 1, "width": 4}}
        name = f"{method}, deployed (validation)"
        traces.append(
            {
                **_points(
                    f"{run}: {name}" if several else name,
                    [_deployed_text(row, several) for row in rows.to_dict("records")],
                    rows["validation"],
                ),
                **error,
                "marker": {
                    "color": colours[run] if several else METHODS.get(method, GREY),
                    "symbol": SYMBOLS.get(method, "square"),
                    "size": 13,
                    "line": {"width": 1.5, "color": "#ffffff"},
                },
                **{cost: {"x": numbers(rows[cost], 6)} for cost in COSTS},
            }
        )
    return traces


def _deployed_text(row: dict[Any, Any], several: bool) -> str:
    costs = [f"{short(row['params'])} params", f"{short(row['flops'])} FLOPs"]
    lines = [
        f"validation {score(row['validation'])} · selection {score(row['selection'])}",
        " · ".join([*costs, *filter(None, [milliseconds(row["latency_ms"])])]),
        *describe(row["arch"]),
    ]
    head = f"<b>{plain(row['method'])} {plain(row['budget'])}</b>"
    return "<br>".join([*[plain(row["run"])] * several, head, *(plain(line) for line in lines)])


def _points(name: str, texts: list[str], y: pd.Series) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "y": numbers(y),
    }


def _teachers(tables: Tables) -> list[dict[str, Any]]:
    """Draw each teacher as a star, on the axes where its cost is known."""
    found: dict[tuple[float | None, ...], dict[str, float | None]] = {}
    names: dict[tuple[float | None, ...], list[str]] = {}
    for run in tables.runs:
        costs = teacher_costs(tables, run)
        value = run.teacher_score("validation")
        if value is not None:
            key = (value, *costs.values())
            found[key] = costs
            names.setdefault(key, []).append(run.name)
    several = len(tables.runs) > 1
    texts = []
    for key, costs in found.items():
        figures = f"{short(costs['params'])} params · {short(costs['flops'])} FLOPs"
        more = milliseconds(costs["latency_ms"])
        lines = ["teacher", f"validation {score(key[0])}", f"{figures} · {more}"]
        texts.append("<br>".join(plain(t) for t in [*[", ".join(names[key])] * several, *lines]))
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
        rows = pareto(deployed, "validation", cost)
        trace[cost] = {"x": numbers(rows[cost], 6), "y": numbers(rows["validation"])}
    return trace


def _axis_of(tables: Tables, deployed: pd.DataFrame, cost: str) -> dict[str, Any]:
    """Return the x axis of one cost, with the budgets' and the teachers' lines."""
    flops_lengths = {run.length for run in tables.runs}
    lengths = {run.setting("task", "max_length") for run in tables.runs}
    title = {
        "params": "parameters",
        "flops": f"FLOPs{_of_length(flops_lengths)}",
        "latency_ms": f"p50 latency{_of_length(lengths)}, ms",
    }[cost]
    line = {"type": "line", "line": {"width": 1, "dash": "dot", "color": GREY}, "layer": "below"}
    shapes = [
        {**line, "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
        for value in teacher_scores(tables)
    ]
    notes = []
    for limit, name in budget_lines(deployed, cost):
        shapes.append({**line, "yref": "paper", "y0": 0, "y1": 1, "x0": limit, "x1": limit})
        note = {"x": limit, "y": 1, "yref": "paper", "text": plain(name), "showarrow": False}
        notes.append({**note, "textangle": -90, "xanchor": "left", "yanchor": "top"})
    ticks = {"tickformat": "~s"} if cost != "latency_ms" else {"rangemode": "tozero"}
    return {"xaxis": axis(title, **ticks), "shapes": shapes, "annotations": notes}


def _of_length(lengths: set[Any]) -> str:
    length = next(iter(lengths)) if len(lengths) == 1 else None
    return f" of one sequence of {length} tokens" if known(length) else " of one sequence"


def budget_lines(deployed: pd.DataFrame, cost: str) -> list[tuple[float, str]]:
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


def _lowest(deployed: pd.DataFrame, drawn: pd.DataFrame) -> tuple[float | None, int]:
    """Return where the y axis begins, so that a few bad points do not flatten the rest."""
    if deployed.empty or drawn.empty:
        return None, 0
    values = pd.concat([deployed["validation"], drawn["value"]])
    low = min(deployed["validation"].min(), drawn["value"].quantile(0.1))
    room = 0.15 * (values.max() - low) + 0.01
    return float(low - room), int((drawn["value"] < low - room).sum())


def _highest(tables: Tables, deployed: pd.DataFrame, drawn: pd.DataFrame) -> float | None:
    if deployed.empty or drawn.empty:
        return None
    high = max([deployed["validation"].max(), drawn["value"].max(), *teacher_scores(tables)])
    return float(high + 0.15 * (high - deployed["validation"].min()) + 0.01)


def _summary(
    tables: Tables,
    deployed: pd.DataFrame,
    evaluated: pd.DataFrame,
    drawn: pd.DataFrame,
    metric: str,
    below: int,
) -> str:
    said = []
    if len(deployed):
        on = pareto(deployed, "validation", "params").to_dict("records")
        several = len(tables.runs) > 1
        points = "; ".join(
            f"{r['run'] + ' ' if several else ''}{r['method']} {r['budget']}, {short(r['params'])} "
            f"params, {score(r['validation'])}"
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

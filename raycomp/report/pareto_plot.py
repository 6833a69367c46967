"""The Pareto plot: deployed models and evaluated architectures over a cost that the reader chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.report.axes import COSTS, build_cost_axis, build_score_axis
from raycomp.report.formatting import format_count, format_score
from raycomp.report.loading import RunTables
from raycomp.report.pareto_front import find_pareto_front
from raycomp.report.pareto_traces import build_traces
from raycomp.report.plot import Plot, base_layout, build_axis, escape_label
from raycomp.report.runtime_traces import EXPLANATION, add_runtime_axes
from raycomp.report.uncertainty import BINOMIAL

MAX_NAMED = 12  # models of the front that the summary names


def draw_pareto_plot(tables: RunTables, metric: str, most: int) -> Plot | None:
    """Draw deployed models (validation) and evaluated architectures (selection) of comparable runs.

    Args:
        tables: Tables of runs with one task and one metric.
        metric: Name of the metric.
        most: Largest number of evaluated architectures to draw. Of more, the plot shows the best ones and
            an even sample.

    Returns:
        The plot; None if no run has evaluated or deployed anything yet.
    """
    deployed = tables.deployments[tables.deployments["validation"].notna()]
    evaluated = _select_evaluations(tables, metric)
    if deployed.empty and evaluated.empty:
        return None

    visible = _thin_out(evaluated, most)
    traces = build_traces(tables, deployed, visible, metric)
    score_axis, num_below = build_score_axis(tables, deployed, visible, metric)
    layouts = {cost: {"yaxis": score_axis, **build_cost_axis(tables, deployed, cost)} for cost in COSTS}
    # The latency of evaluated architectures is not measured, so the axis need not make room for them.
    layouts["latency_ms"]["yaxis"] = build_axis(escape_label(metric))

    # Each trace carries its coordinates for every cost; the page's script merges one of them into it.
    variants: dict[str, Any] = {}
    for cost in COSTS:
        variants[cost] = {"data": [trace.pop(cost) for trace in traces], "layout": layouts[cost]}
    choices = {**COSTS, **add_runtime_axes(tables, traces, variants, metric)}
    shown = [{**trace, **patch} for trace, patch in zip(traces, variants["params"]["data"], strict=True)]
    figure = go.Figure(shown, base_layout(540, hovermode="closest", **layouts["params"]))

    sentences = _describe_front(tables, deployed, metric)
    sentences += _explain_marks(tables, deployed, metric)
    sentences += _explain_omissions(len(evaluated), len(visible), num_below)
    sentences += [EXPLANATION] if len(choices) > len(COSTS) else []
    return Plot("Pareto front", " ".join(sentences), figure, choices, variants)


def _select_evaluations(tables: RunTables, metric: str) -> pd.DataFrame:
    """Return the architectures that were scored on the selection split with one metric."""
    frame = tables.evaluations
    is_selected = (frame["split"] == "selection") & (frame["metric"] == metric) & frame["value"].notna()
    return frame[is_selected]


def _thin_out(evaluated: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the fronts of the selection score, and rows that are evenly spaced by parameters."""
    if len(evaluated) <= most:
        return evaluated

    # The best architectures are always drawn: they tell how far the search came.
    fronts = pd.concat([find_pareto_front(evaluated, "value", cost) for cost in ("params", "flops")])
    fronts = fronts[~fronts.index.duplicated()].head(most // 2)
    others = evaluated.drop(index=fronts.index).sort_values("params", kind="stable")
    positions = np.linspace(0, len(others) - 1, most - len(fronts)).round().astype(int)
    return pd.concat([fronts, others.iloc[np.unique(positions)]])


def _describe_front(tables: RunTables, deployed: pd.DataFrame, metric: str) -> list[str]:
    """Return a sentence that names the models on the front."""
    if deployed.empty:
        return []

    front = find_pareto_front(deployed, "validation", "params").to_dict("records")
    has_several_runs = len(tables.runs) > 1
    models = []
    for row in front[:MAX_NAMED]:
        name = f"{row['method']} {row['budget']}"
        if has_several_runs:
            name = f"{row['run']} {name}"
        figures = f"{format_count(row['params'])} params, {format_score(row['validation'])}"
        models.append(f"{name} ({figures})")
    if len(front) > MAX_NAMED:
        models.append(f"and {len(front) - MAX_NAMED} more")
    return [f"Models on the front of validation {metric} over params: {'; '.join(models)}."]


def _explain_marks(tables: RunTables, deployed: pd.DataFrame, metric: str) -> list[str]:
    """Return how to read the plot."""
    large = "Large marks are deployed models with their validation score"
    if metric in BINOMIAL and any(run.examples("validation") for run in tables.runs):
        large += "; a bar is one standard error in each direction"
    sentences = [
        "Models further up and further left are better. The stepped line is the front: no deployed model "
        "scores higher at a lower cost.",
        f"{large}.",
        "Small marks are architectures that the search evaluated, with their selection score; networks "
        "that were healed have another small mark. The two "
        "splits have different examples, so compare only marks of the same kind.",
        "The star is the teacher, and the horizontal dotted line is its score. Vertical dotted lines "
        "are the limits of the budgets.",
    ]
    if (deployed["kind"] == "encoder_params").any():
        sentences.append(
            "A limit on encoder_params is drawn on the params axis with embeddings, pooler and "
            "classifier added to it."
        )
    return sentences


def _explain_omissions(num_evaluated: int, num_drawn: int, num_below: int) -> list[str]:
    """Return what the plot does not show."""
    sentences = []
    if num_drawn < num_evaluated:
        sentences.append(
            f"The plot shows {num_drawn:,} of {num_evaluated:,} evaluated architectures: the fronts of "
            "the selection score, and others evenly spaced by params."
        )
    if num_below:
        sentences.append(f"{num_below:,} small marks are below the axis; double-click to see them.")
    if num_drawn:
        sentences.append("Latency is measured for deployed models only.")
    return sentences

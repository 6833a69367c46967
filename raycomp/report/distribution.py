"""The architecture distribution over time, as a heat map of the probability of each choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.report.curves import MAX_TRIALS, describe_training
from raycomp.report.plot import Plot, base_layout, build_axis, escape_label, spaced_positions

LikelyChoices = list[dict[str, Any]]


def draw_distribution_plots(distribution: pd.DataFrame, most: int) -> list[tuple[Plot, LikelyChoices]]:
    """Draw the probability of every choice over time, one heat map for each training task of one run.

    Args:
        distribution: Rows of the table `distribution` of one run, with the column `training`.
        most: Largest number of points in time.

    Returns:
        Each plot with the most likely choice of each variable at the last step.
    """
    # The super-network comes first, then the trials of AdaBERT.
    trainings = sorted(distribution["training"].unique(), key=lambda name: name != "supernet")
    plots = []
    for training in trainings[:MAX_TRIALS]:
        rows = distribution[distribution["training"] == training]
        plots.append(_draw_distribution(training, rows, most))

    # The first plot says that others are missing.
    if len(trainings) > MAX_TRIALS:
        plot, choices = plots[0]
        note = f" The page shows {MAX_TRIALS} of {len(trainings)} training tasks."
        plots[0] = (Plot(plot.title, plot.summary + note, plot.figure), choices)
    return plots


def _draw_distribution(training: str, rows: pd.DataFrame, most: int) -> tuple[Plot, LikelyChoices]:
    keys = ["variable", "choice"]
    choices = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    table = rows.pivot_table(index=keys, columns="step", values="probability", aggfunc="last")
    table = table.reindex(choices)  # in the order of the file, not of the alphabet
    num_moments = table.shape[1]
    table = table.iloc[:, spaced_positions(num_moments, most)]

    labels = [escape_label(f"{variable} = {choice}") for variable, choice in choices]
    # NaN is not JSON, and three decimals keep the page small.
    probabilities = [
        [None if np.isnan(value) else round(float(value), 3) for value in values]
        for values in table.to_numpy()
    ]
    layout = base_layout(
        130 + 15 * len(labels),
        xaxis=build_axis("step"),
        yaxis={"autorange": "reversed", "automargin": True, "dtick": 1, "tickfont": {"size": 10}},
    )
    colour_bar = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "thickness": 10, "len": 0.6}
    heat_map = go.Heatmap(
        x=[int(step) for step in table.columns],
        y=labels,
        z=probabilities,
        zmin=0,
        zmax=1,
        colorscale="Viridis",
        colorbar={**colour_bar, "title": {"text": "probability", "side": "top"}},
        hovertemplate="%{y}<br>step %{x}<br>probability %{z}<extra></extra>",
    )

    last_step = int(rows["step"].max())
    summary = (
        "Each row is one choice of one variable; each column is one moment of training. A bright cell "
        f"is a likely choice. There are {num_moments:,} moments, the last at step {last_step:,}"
    )
    if table.shape[1] < num_moments:
        summary += f"; the plot shows {table.shape[1]:,} of them"
    summary += ". The table below names the most likely choice of each variable at the last step."

    name, _, trial = training.partition(".")
    symbol = "P_alpha" if name == "adabert-search" else "Theta"
    title = " ".join(filter(None, [f"{symbol}: {describe_training(name)}", trial]))
    return Plot(title, summary, go.Figure(heat_map, layout)), _likely_choices(rows)


def _likely_choices(rows: pd.DataFrame) -> LikelyChoices:
    """Return the most likely choice of each variable at the last step."""
    last = rows[rows["step"] == rows["step"].max()]
    best = last.loc[last.groupby("variable", sort=False)["probability"].idxmax().dropna()]
    choices: LikelyChoices = best[["variable", "choice", "probability"]].to_dict("records")
    return choices

"""Training over time: loss, entropy and exploit probability, and theta as a heat map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycomp.report.plot import (
    GREY,
    PALETTE,
    Plot,
    base_layout,
    bin_means,
    build_axis,
    escape_label,
    round_values,
    spaced_positions,
)

TRAININGS = {
    "teacher": "teacher",
    "supernet": "super-network",
    "adabert-search": "AdaBERT's search",
    "adabert-child": "AdaBERT's child",
}
MOST_TRIALS = 8


def draw_loss_plots(steps: pd.DataFrame, most: int) -> list[Plot]:
    """Draw the loss of each training of one run, smoothed within each phase or trial.

    Args:
        steps: rows of one run.
        most: points of a curve.
    """
    plots = []
    for name, rows in _trainings(steps):
        plots.append(_loss(name, rows, most))
    return plots


def _trainings(steps: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a run's steps into its trainings, each with a column `part`: its phase or trial."""
    steps = steps[steps["training"].notna() & steps["step"].notna()]
    if steps.empty:
        return []
    task = steps["training"].astype(str).str.partition(".")
    trial = task[2].where(task[2] != "")
    part = trial.fillna(steps["phase"]).fillna(task[0])
    marked = steps.assign(training=task[0], part=part)
    found = {str(name): rows for name, rows in marked.groupby("training")}
    order = [*TRAININGS, *(n for n in found if n not in TRAININGS)]
    return [(n, found[n].sort_values("step", kind="stable")) for n in order if n in found]


def _loss(name: str, rows: pd.DataFrame, most: int) -> Plot:
    title = f"Loss: {TRAININGS.get(name, name)}"
    lost = int(rows["loss"].isna().sum())
    rows = rows[np.isfinite(rows["loss"].astype(float))]
    parts = list(dict.fromkeys(rows["part"]))
    shown = parts[:MOST_TRIALS] if name.startswith("adabert-") else parts
    window = max(1, rows["step"].nunique() // 50)
    figure = go.Figure(layout=base_layout(380, xaxis=build_axis("step"), yaxis=build_axis("loss")))
    size = 1
    if rows["step"].is_unique and len(rows):
        x, y, size = bin_means(rows["step"], rows["loss"], most)
        label = "each step" if size == 1 else f"mean of {size} steps"
        thin = {"color": GREY, "width": 0.7}
        figure.add_scatter(
            x=round_values(x, 7), y=round_values(y), name=label, line=thin, opacity=0.45, mode="lines"
        )
    for i, part in enumerate(shown):
        mine = rows[rows["part"] == part]
        smooth = mine["loss"].rolling(window, min_periods=1, center=True).mean()
        at = spaced_positions(len(mine), max(2, most * len(mine) // max(1, len(rows))))
        figure.add_scatter(
            x=round_values(mine["step"].iloc[at], 9),
            y=round_values(smooth.iloc[at]),
            name=escape_label(part),
            mode="lines",
            line=_line(i),
        )
    said = []
    for part in shown:
        mine = rows["loss"][rows["part"] == part]
        begin, end = mine.head(window).mean(), mine.tail(window).mean()
        said.append(f"{part} {begin:.3g} to {end:.3g}")
    summary = (
        f"{len(rows):,} steps; each curve is the mean over {window} step{'s' * (window > 1)}, "
        f"within its {'trial' if name.startswith('adabert-') else 'phase'}. "
        f"From its first to its last value: {'; '.join(said)}."
    )
    if len(shown) < len(parts):
        summary += f" {len(shown)} of {len(parts)} trials are drawn."
    if lost:
        summary += f" {lost:,} steps have no finite loss and are left out."
    return Plot(title, summary, figure)


def _line(index: int) -> dict[str, Any]:
    """Return the look of the n-th curve; dashed where the colours begin anew."""
    dash = "solid" if index < len(PALETTE) else "dot"
    return {"color": PALETTE[index % len(PALETTE)], "width": 1.8, "dash": dash}


def draw_controller_plots(steps: pd.DataFrame, most: int) -> list[Plot]:
    """Draw the entropy of what is searched, and EE-SNG's exploit probability, over one run's steps."""
    plots = []
    for name, rows in _trainings(steps):
        rows = rows[rows["entropy"].notna()]
        if rows.empty:
            continue
        plots.append(
            _controller(rows, most) if rows["p_exploit"].notna().any() else _entropies(rows, name, most)
        )
    return plots


def _controller(rows: pd.DataFrame, most: int) -> Plot:
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    at = spaced_positions(len(rows), most)
    step = round_values(rows["step"].iloc[at], 9)
    for row, (column, label) in enumerate((("entropy", "entropy"), ("p_exploit", "exploit")), 1):
        colour = {"color": PALETTE[2 * row - 2], "width": 1.8, "shape": "hv"}
        y = round_values(rows[column].iloc[at])
        figure.add_scatter(x=step, y=y, name=label, line=colour, mode="lines", row=row, col=1)
    begins = rows.groupby("part", sort=False)["step"].min().tolist()[1:]
    mark = {"type": "line", "line": {"width": 1, "dash": "dot", "color": GREY}, "layer": "below"}
    shapes = [{**mark, "yref": "paper", "y0": 0, "y1": 1, "x0": s, "x1": s} for s in begins]
    figure.update_layout(base_layout(420, showlegend=False, shapes=shapes))
    figure.update_yaxes(automargin=True)
    figure.update_yaxes(title_text="entropy, nats", row=1)
    figure.update_yaxes(title_text="exploit probability", row=2)
    figure.update_xaxes(title_text="step", automargin=True, row=2)
    last = rows.iloc[-1]
    explored = rows["explored"].eq(True).mean()
    summary = (
        f"Entropy of theta over the choices that are open, {last['entropy']:.3g} nats at the last "
        f"step, and the probability that a step draws from theta rather than uniformly, "
        f"{rows['p_exploit'].min():.3f} at its lowest; {100 * explored:.1f}% of the steps explored. "
        "Dotted lines: a phase opens further choices, so that the entropy rises."
    )
    return Plot("Entropy and exploit probability: super-network", summary, figure)


def _entropies(rows: pd.DataFrame, name: str, most: int) -> Plot:
    parts = list(dict.fromkeys(rows["part"]))
    frame = base_layout(320, xaxis=build_axis("step"), yaxis=build_axis("entropy, share"))
    figure = go.Figure(layout=frame)
    said = []
    for i, part in enumerate(parts[:MOST_TRIALS]):
        mine = rows[rows["part"] == part]
        at = spaced_positions(len(mine), most)
        figure.add_scatter(
            x=round_values(mine["step"].iloc[at], 9),
            y=round_values(mine["entropy"].iloc[at]),
            name=escape_label(part),
            mode="lines",
            line=_line(i),
            showlegend=True,
        )
        said.append(f"{part} {mine['entropy'].iloc[-1]:.3g}")
    summary = (
        "Entropy of P_alpha as a share of the largest, 1 where every choice is as likely. "
        f"At the end: {'; '.join(said)}."
    )
    if len(said) < len(parts):
        summary += f" {len(said)} of {len(parts)} trials are drawn."
    return Plot(f"Entropy: {TRAININGS.get(name, name)}", summary, figure)


def draw_theta_plots(distribution: pd.DataFrame, most: int) -> list[tuple[Plot, list[dict[str, Any]]]]:
    """Draw the probability of every choice over time, one heat map for each training of one run.

    Args:
        distribution: rows of one run, with `stage`.
        most: points in time; of more, evenly spaced ones are drawn.

    Returns:
        Each plot with the likeliest choice of each variable at the last step, for a table.
    """
    stages = sorted(distribution["stage"].unique(), key=lambda s: s != "supernet")
    found = []
    for stage in stages[:MOST_TRIALS]:
        rows = distribution[distribution["stage"] == stage]
        plot, likeliest = _theta(stage, rows, most)
        if stage == stages[0] and len(stages) > MOST_TRIALS:
            note = f" {MOST_TRIALS} of {len(stages)} trainings are drawn."
            plot = Plot(plot.title, plot.summary + note, plot.figure)
        found.append((plot, likeliest))
    return found


def _theta(stage: str, rows: pd.DataFrame, most: int) -> tuple[Plot, list[dict[str, Any]]]:
    keys = ["variable", "choice"]
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    table = rows.pivot_table(index=keys, columns="step", values="probability", aggfunc="last")
    table = table.reindex(order)
    at = spaced_positions(table.shape[1], most)
    drawn = table.iloc[:, at]
    labels = [escape_label(f"{variable} = {choice}") for variable, choice in order]
    frame = base_layout(
        130 + 15 * len(labels),
        xaxis=build_axis("step"),
        yaxis={"autorange": "reversed", "automargin": True, "dtick": 1, "tickfont": {"size": 10}},
    )
    bar = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "thickness": 10, "len": 0.6}
    figure = go.Figure(
        go.Heatmap(
            x=[int(s) for s in drawn.columns],
            y=labels,
            z=[[None if np.isnan(p) else round(float(p), 3) for p in row] for row in drawn.to_numpy()],
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            colorbar={**bar, "title": {"text": "probability", "side": "top"}},
            hovertemplate="%{y}<br>step %{x}<br>probability %{z}<extra></extra>",
        ),
        frame,
    )
    final = rows[rows["step"] == rows["step"].max()]
    best = final.loc[final.groupby("variable", sort=False)["probability"].idxmax().dropna()]
    likeliest: list[dict[str, Any]] = best[["variable", "choice", "probability"]].to_dict("records")
    name, _, trial = stage.partition(".")
    where = " ".join(filter(None, [TRAININGS.get(name, name), trial]))
    summary = (
        f"A row is a choice, a column a moment of training, {table.shape[1]:,} in all, the last at "
        f"step {int(rows['step'].max()):,}"
        + (f"; {len(at):,} of them are drawn" if len(at) < table.shape[1] else "")
        + ". Bright: likely. The table below names the likeliest choices at the end."
    )
    what = "P_alpha" if name == "adabert-search" else "Theta"
    return Plot(f"{what}: {where}", summary, figure), likeliest

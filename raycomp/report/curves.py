"""Training over time: the loss, the entropy of the search, and EE-SNG's exploit probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.methods.registry import load_settings, method_names
from raycomp.methods.yoco.noise_band import ControllerBand
from raycomp.report.controller_plot import draw_controller
from raycomp.report.formatting import plural
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

# Training tasks in the order of the page, with the names that the page gives them.
TRAININGS = {
    "teacher": "teacher",
    "supernet": "super-network",
    "heal": "healing",
    "adabert-search": "AdaBERT's search",
    "adabert-round": "AdaBERT's finalists",
    "adabert-child": "AdaBERT's child",
    "uniform-supernet": "super-network with uniform sampling",
    "uniform-heal": "healing of networks with uniform sampling",
    "pkd-student": "BERT-PKD's students",
    "first_n-student": "students with the first n layers",
}
MAX_TRIALS = 8  # curves of one plot
WINDOWS = 50  # a curve is averaged over its length divided by this number


def split_trainings(steps: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split the steps of one run into its training tasks.

    Args:
        steps: Rows of the table `steps` of one run.

    Returns:
        Name and rows of each training task. The rows have two further columns. `part` is the phase of the
        super-network's training, the trial of AdaBERT's sweep, or the budget of a student. `is_phase`
        says whether it is a phase.
    """
    steps = steps[steps["training"].notna() & steps["step"].notna()]
    if steps.empty:
        return []

    # The name of a repeated task has a second part, such as "adabert-search.TRIAL" or
    # "pkd-student.BUDGET".
    task = steps["training"].astype(str).str.partition(".")
    trial = task[2].where(task[2] != "")
    part = trial.fillna(steps["phase"]).fillna(task[0])
    labelled = steps.assign(training=task[0], part=part, is_phase=trial.isna())
    trainings = {str(name): rows for name, rows in labelled.groupby("training")}
    order = [*TRAININGS, *(name for name in trainings if name not in TRAININGS)]
    return [
        (name, trainings[name].sort_values("step", kind="stable")) for name in order if name in trainings
    ]


def describe_training(name: str) -> str:
    """Return a training task's name for readers."""
    if name in TRAININGS:
        return TRAININGS[name]

    # Other methods name their trainings after themselves: "theseus-student".
    method, _, kind = name.rpartition("-")
    if method not in method_names():
        return name
    kinds = {"student": "students", "supernet": "super-network"}
    return f"{load_settings(method).title}: {kinds.get(kind, kind)}"


def curve_style(index: int) -> dict[str, Any]:
    """Return colour and dash of a plot's n-th curve; curves are dotted once all colours are used."""
    dash = "solid" if index < len(PALETTE) else "dot"
    return {"color": PALETTE[index % len(PALETTE)], "width": 1.8, "dash": dash}


def draw_loss_plots(steps: pd.DataFrame, most: int) -> list[Plot]:
    """Draw the loss of each training task of one run, averaged within each phase or trial.

    Args:
        steps: Rows of the table `steps` of one run.
        most: Largest number of points of a curve.
    """
    return [_draw_loss(name, rows, most) for name, rows in split_trainings(steps)]


def _draw_loss(name: str, rows: pd.DataFrame, most: int) -> Plot:
    num_undefined = int((~np.isfinite(rows["loss"].astype(float))).sum())
    rows = rows[np.isfinite(rows["loss"].astype(float))]
    is_sweep = not rows["is_phase"].all()
    parts = list(dict.fromkeys(rows["part"]))
    # A sweep can have more trials than a reader can tell apart.
    visible = parts[:MAX_TRIALS] if is_sweep else parts
    window = max(1, rows["step"].nunique() // WINDOWS)

    figure = go.Figure(layout=base_layout(380, xaxis=build_axis("step"), yaxis=build_axis("loss")))
    # Trials run at the same time and repeat the steps; only a single training has one loss for each step.
    if rows["step"].is_unique and len(rows):
        _add_raw_loss(figure, rows, most)

    changes = {}
    for index, part in enumerate(visible):
        part_rows = rows[rows["part"] == part]
        loss = part_rows["loss"]
        smooth = loss.rolling(window, min_periods=1, center=True).mean()
        # A part gets its share of the points.
        positions = spaced_positions(len(part_rows), max(2, most * len(part_rows) // max(1, len(rows))))
        figure.add_scatter(
            x=round_values(part_rows["step"].iloc[positions], 9),
            y=round_values(smooth.iloc[positions]),
            name=escape_label(part),
            mode="lines",
            line=curve_style(index),
        )
        changes[part] = f"{loss.head(window).mean():.3g} to {loss.tail(window).mean():.3g}"

    summary = f"Training loss over {plural(len(rows), 'step')}; lower is better. "
    if len(parts) == 1:
        summary += f"The curve is averaged over {plural(window, 'step')}: {changes[parts[0]]}."
    else:
        kind = "training" if is_sweep else "phase"
        values = "; ".join(f"{part} {change}" for part, change in changes.items())
        summary += f"Each curve is one {kind}, averaged over {plural(window, 'step')}. "
        summary += f"First and last value of each {kind}: {values}."
    if name == "supernet":
        summary += " The loss can rise when a phase adds smaller sub-networks."
    if len(visible) < len(parts):
        summary += f" The plot shows {len(visible)} of {len(parts)} trainings."
    if num_undefined:
        summary += f" {plural(num_undefined, 'step')} without a finite loss are left out."
    return Plot(f"Loss: {describe_training(name)}", summary, figure)


def _add_raw_loss(figure: go.Figure, rows: pd.DataFrame, most: int) -> None:
    """Add the loss of each step as a thin line, or means of several steps if there are too many."""
    steps, losses, size = bin_means(rows["step"], rows["loss"], most)
    figure.add_scatter(
        x=round_values(steps, 7),
        y=round_values(losses),
        name="each step" if size == 1 else f"mean of {size} steps",
        line={"color": GREY, "width": 0.7},
        opacity=0.45,
        mode="lines",
    )


FindBand = Callable[[pd.DataFrame], ControllerBand | str]
"""Maps the steps of a super-network to the band of its controller on noise, or to why it lacks one."""


def draw_search_plots(steps: pd.DataFrame, most: int, find_band: FindBand | None = None) -> list[Plot]:
    """Draw the entropy of each search of one run, and EE-SNG's exploit probability.

    Args:
        steps: Rows of the table `steps` of one run.
        most: Largest number of points of a curve.
        find_band: Gives the band of EE-SNG's controller on random losses; None draws none.
    """
    plots = []
    for name, rows in split_trainings(steps):
        rows = rows[rows["entropy"].notna()]
        if rows.empty:
            continue
        if rows["p_exploit"].notna().any():
            band = find_band(rows) if find_band is not None and name == "supernet" else None
            plots.append(draw_controller(rows, most, band))
        else:
            plots.append(_draw_entropies(rows, name, most))
    return plots


def _add_noise_band(figure: go.Figure, rows: pd.DataFrame, index: int, most: int) -> None:
    """Shade the band of the entropy on noise, in the colour of the training's curve."""
    rows = rows[rows["noise_low"].notna()]
    if rows.empty:
        return
    positions = spaced_positions(len(rows), most)
    steps = round_values(rows["step"].iloc[positions], 9)
    for column, fill in (("noise_low", None), ("noise_high", "tonexty")):
        figure.add_scatter(
            x=steps,
            y=round_values(rows[column].iloc[positions]),
            mode="lines",
            line={"width": 0, "color": curve_style(index)["color"]},
            fill=fill,
            opacity=0.2,
            hoverinfo="skip",
            showlegend=False,
        )


def _describe_noise(rows: pd.DataFrame) -> str:
    """Return how the last entropy compares with that of noise; empty where the run does not know it."""
    last = rows.iloc[-1]
    if pd.isna(last["noise_low"]):
        return ""
    band = f"noise gives {last['noise_low']:.3g} to {last['noise_high']:.3g}"
    if last["entropy"] < last["noise_low"]:
        return f" ({band}: below it)"
    return f" ({band}: not below it)"


def _draw_entropies(rows: pd.DataFrame, name: str, most: int) -> Plot:
    parts = list(dict.fromkeys(rows["part"]))
    layout = base_layout(320, xaxis=build_axis("step"), yaxis=build_axis("entropy / largest entropy"))
    figure = go.Figure(layout=layout)
    last_values = []
    for index, part in enumerate(parts[:MAX_TRIALS]):
        part_rows = rows[rows["part"] == part]
        positions = spaced_positions(len(part_rows), most)
        figure.add_scatter(
            x=round_values(part_rows["step"].iloc[positions], 9),
            y=round_values(part_rows["entropy"].iloc[positions]),
            name=escape_label(part),
            mode="lines",
            line=curve_style(index),
            showlegend=True,
        )
        last_values.append(f"{part} {part_rows['entropy'].iloc[-1]:.3g}{_describe_noise(part_rows)}")
        _add_noise_band(figure, part_rows, index, most)

    summary = (
        "Entropy of the distribution over CNN structures, P_alpha, divided by the largest possible "
        "entropy. It is 1 if every choice is equally likely, and falls as the search decides. Last "
        f"value of each training: {'; '.join(last_values)}."
    )
    if rows["noise_low"].notna().any():
        summary += (
            " A shaded band is the entropy of searches of the same length whose losses are random "
            "numbers (95% of 20 repetitions): inside it, the search is not shown to have learned."
        )
    if len(last_values) < len(parts):
        summary += f" The plot shows {len(last_values)} of {len(parts)} trainings."
    return Plot(f"Entropy: {describe_training(name)}", summary, figure)

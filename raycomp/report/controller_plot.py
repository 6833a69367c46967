"""EE-SNG over time: the entropy of theta and the exploit probability, with the band of random losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from raycomp.methods.yoco.noise_band import ControllerBand
from raycomp.report.plot import (
    PALETTE,
    Plot,
    base_layout,
    round_values,
    spaced_positions,
    vertical_line,
)

COLUMNS = ("entropy", "p_exploit")


def draw_controller(rows: pd.DataFrame, most: int, band: ControllerBand | str | None = None) -> Plot:
    """Draw the entropy and the exploit probability of a super-network's training.

    Args:
        rows: Its rows of the table `steps`, with the column `part`, the phase.
        most: Largest number of points of a curve.
        band: Band on random losses, or the reason why it is missing; None says nothing about it.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    positions = spaced_positions(len(rows), most)
    steps = rows["step"].iloc[positions]

    for number, column in enumerate(COLUMNS, 1):
        style = {"color": PALETTE[2 * number - 2], "width": 1.8, "shape": "hv"}
        if isinstance(band, ControllerBand):
            bounds = band.entropy if column == "entropy" else band.exploit_probability
            _add_band(figure, steps, bounds, number, style)
        figure.add_scatter(
            x=round_values(steps, 9),
            y=round_values(rows[column].iloc[positions]),
            name=column,
            line=style,
            mode="lines",
            row=number,
            col=1,
        )

    # Every phase but the first opens further choices.
    later_phases = rows.groupby("part", sort=False)["step"].min().tolist()[1:]
    lines = [vertical_line(step) for step in later_phases]
    figure.update_layout(base_layout(420, showlegend=False, shapes=lines))
    figure.update_yaxes(automargin=True)
    figure.update_yaxes(title_text="entropy, nats", row=1)
    figure.update_yaxes(title_text="exploit probability", row=2)
    figure.update_xaxes(title_text="step", automargin=True, row=2)

    explored_share = rows["explored"].eq(True).mean()
    summary = (
        "Top: entropy of the architecture distribution over the choices that are open; it falls as the "
        f"distribution becomes more certain ({rows.iloc[-1]['entropy']:.3g} nats at the last step). "
        "Bottom: probability that a step samples from the distribution instead of uniformly (lowest "
        f"value {rows['p_exploit'].min():.3f}); {100 * explored_share:.1f}% of the steps sampled "
        "uniformly. A dotted line is the beginning of a phase; each phase opens further choices, so the "
        "entropy rises there." + _describe_band(rows, band)
    )
    return Plot("Entropy and exploit probability: super-network", summary, figure)


def _add_band(
    figure: go.Figure, steps: pd.Series, bounds: np.ndarray, number: int, style: dict[str, Any]
) -> None:
    """Shade the band between two bounds, (2, all steps of the training), in the colour of the curve."""
    shown = bounds[:, steps.to_numpy(int)]
    for values, fill in zip(shown, (None, "tonexty"), strict=True):
        figure.add_scatter(
            x=round_values(steps, 9),
            y=round_values(pd.Series(values)),
            mode="lines",
            line={**style, "width": 0},
            fill=fill,
            opacity=0.2,
            hoverinfo="skip",
            row=number,
            col=1,
        )


def _describe_band(rows: pd.DataFrame, band: ControllerBand | str | None) -> str:
    """Return what random losses give at the last step, and whether the entropy is below it."""
    if band is None:
        return ""
    if isinstance(band, str):
        return f" The band that random losses give is not drawn: {band}."

    last = rows.iloc[-1]
    low, high = band.entropy[:, int(last["step"])]
    k_low, k_high = band.exploit_probability[:, int(last["step"])]

    text = (
        " A shaded band shows random losses with the same update rule and phases (95% of "
        f"{band.repetitions} repetitions): at the last step, an entropy of {low:.4g} to {high:.4g} nats "
        f"and an exploit probability of {k_low:.3f} to {k_high:.3f}. "
    )

    if last["entropy"] < low:
        return text + f"The entropy of this run ({last['entropy']:.4g}) is below the band."
    return text + (
        f"The entropy of this run ({last['entropy']:.4g}) is not below the band: it does not show that "
        "theta has learned."
    )

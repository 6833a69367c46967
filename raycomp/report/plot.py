"""The value of a plot, and what all plots share: colours, axes, lines, and thinning of points."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.arithmetic import ceil_div
from raycomp.methods.registry import method_names

# Mid-tones: each has a contrast of at least 3 : 1 on the page, light or dark.
PALETTE = (
    "#2f7ed8", "#d2690e", "#2a9461", "#a05fe0", "#d6456b", "#0e93a5", "#97851f", "#7d8590",
)  # fmt: skip
GREY = "#8a9099"
MARKERS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "x")
"""Markers of the methods, in the order of the registry."""


def method_color(method: str) -> str:
    """Return the colour of a method in all plots; grey for a method that is not in the registry."""
    names = method_names()
    if method not in names:
        return GREY
    return PALETTE[names.index(method) % len(PALETTE)]


def method_marker(method: str) -> str:
    """Return the marker of a method in all plots."""
    names = method_names()
    if method not in names:
        return MARKERS[0]
    return MARKERS[names.index(method) % len(MARKERS)]


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes:
        title: Heading of the figure.
        summary: Sentences that explain the figure and how to read it. They are its text alternative too.
        figure: The plotly figure.
        choices: Names of the variants that a reader can choose from: key -> label.
        variants: Key -> {"data": one patch for each trace, "layout": a patch}.
    """

    title: str
    summary: str
    figure: go.Figure
    choices: dict[str, str] = field(default_factory=dict)
    variants: dict[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """Return what the page's script reads, as JSON without NaN."""
        payload = self.figure.to_plotly_json()
        payload["layout"].pop("template", None)  # the page's script sets the colours
        return {**payload, "variants": self.variants}


def escape_label(text: Any) -> str:
    """Escape text for plotly, which interprets a few HTML tags, links among them, in every label."""
    return html.escape(str(text), quote=False)


def round_values(values: Any, digits: int = 4) -> list[float | None]:
    """Return floats with that many significant digits; a value that is not finite becomes None."""
    return [
        float(f"{value:.{digits}g}") if np.isfinite(value) else None
        for value in np.asarray(values, float)
    ]


def spaced_positions(count: int, most: int) -> np.ndarray:
    """Return at most `most` evenly spaced positions of `count`, including the first and the last."""
    num_positions = min(count, max(2, most))
    return np.unique(np.linspace(0, count - 1, num_positions).round().astype(int))


def bin_means(x: pd.Series, y: pd.Series, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Average successive rows until at most `most` points remain.

    Args:
        x, y: Coordinates, (rows,).
        most: Largest number of points.

    Returns:
        Mean x, mean y, and the number of rows in one mean.
    """
    rows_per_bin = max(1, ceil_div(len(x), max(1, most)))
    bins = np.arange(len(x)) // rows_per_bin
    return x.groupby(bins).mean().to_numpy(), y.groupby(bins).mean().to_numpy(), rows_per_bin


def base_layout(height: int, **more: Any) -> dict[str, Any]:
    """Return the layout that all plots begin with.

    Args:
        height: Height in pixels.
        more: Further entries of plotly's layout.
    """
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
        "hoverlabel": {"align": "left"},
        **more,
    }


def build_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis that makes room for its labels."""
    return {"title": {"text": title}, "automargin": True, **more}


def vertical_line(x: float) -> dict[str, Any]:
    """Return a dotted line over the whole height of a plot."""
    return {**DOTTED_LINE, "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x}


def horizontal_line(y: float) -> dict[str, Any]:
    """Return a dotted line over the whole width of a plot."""
    return {**DOTTED_LINE, "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y}


DOTTED_LINE = {"type": "line", "line": {"width": 1, "dash": "dot", "color": GREY}, "layer": "below"}

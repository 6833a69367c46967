"""What the plots share: their value, their colours, and fewer points where there are too many."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from raycomp.arithmetic import ceil_div

# Mid-tones: each keeps a contrast of 3 : 1 against the page, light or dark.
PALETTE = (
    "#2f7ed8", "#d2690e", "#2a9461", "#a05fe0", "#d6456b", "#0e93a5", "#97851f", "#7d8590",
)  # fmt: skip
GREY = "#8a9099"
METHODS = {"yoco": PALETTE[0], "adabert": PALETTE[1]}
SYMBOLS = {"yoco": "circle", "adabert": "diamond"}


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes:
        title: its heading.
        summary: what it shows, in sentences: its text alternative.
        figure: what plotly draws.
        choices: names of the variants, for a reader to choose from: key -> label.
        variants: key -> {"data": one patch per trace, "layout": a patch}.
    """

    title: str
    summary: str
    figure: go.Figure
    choices: dict[str, str] = field(default_factory=dict)
    variants: dict[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """Return what the page's script reads; JSON without NaN."""
        found = self.figure.to_plotly_json()
        found["layout"].pop("template", None)  # the page's script sets the colours
        return {**found, "variants": self.variants}


def escape_label(text: Any) -> str:
    """Escape text for plotly, which reads a few HTML tags, links among them, in every label."""
    return html.escape(str(text), quote=False)


def round_values(values: Any, digits: int = 4) -> list[float | None]:
    """Return floats with so many significant digits; what is not finite becomes None."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in np.asarray(values, float)]


def spaced_positions(count: int, most: int) -> np.ndarray:
    """Return at most `most` positions of `count`, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, max(2, most))).round().astype(int))


def bin_means(x: pd.Series, y: pd.Series, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return means of successive rows, at most `most` of them, and how many rows each stands for."""
    size = ceil_div(len(x), max(1, most))
    group = np.arange(len(x)) // max(1, size)
    return x.groupby(group).mean().to_numpy(), y.groupby(group).mean().to_numpy(), max(1, size)


def base_layout(height: int, **more: Any) -> dict[str, Any]:
    """Return the layout that all plots begin with; `height` in pixels."""
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

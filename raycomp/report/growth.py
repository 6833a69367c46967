"""How cost grows with budgets, workers, the space and the data, as `benchmarks.growth` measured it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from raycomp.errors import UserError, first_line, shown
from raycomp.report.formatting import format_count
from raycomp.report.plot import GREY, PALETTE, Plot, base_layout, build_axis, escape_label, round_values

MAX_BYTES = 2**20


@dataclass(frozen=True)
class GrowthPoint:
    """One point of a line.

    Attributes:
        what: grows: budgets, workers, space or data.
        series: what is counted: the name of the line.
        x: how many of `what`.
        value: the figure, above 0.
        unit: of the figure.
        simulated: whether it was computed from measured parts.
    """

    what: str
    series: str
    x: float
    value: float
    unit: str
    simulated: bool = False


def read_growth(path: str | Path) -> list[GrowthPoint]:
    """Read what `python -m benchmarks.growth` wrote: a list of objects with the fields of `Point`.

    Raises:
        UserError: the file is missing, damaged, too large, or another one.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        rows = json.loads(raw)
        if not isinstance(rows, list) or not rows:
            raise ValueError("it holds no list of rows")
        return [_point(i, row) for i, row in enumerate(rows, 1)]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(str(path))} is no growth file ({first_line(error)}); "
            "`python -m benchmarks.growth --out FILE.json` writes one"
        ) from None


def _point(number: int, row: Any) -> GrowthPoint:
    names = [f.name for f in fields(GrowthPoint)]
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"row {number} must have {', '.join(names)}, and no more")
    if not all(isinstance(row[n], str) and row[n] for n in ("what", "series", "unit")):
        raise ValueError(f"row {number}: what, series and unit must be texts")
    if not all(_positive(row[n]) for n in ("x", "value")):
        raise ValueError(f"row {number}: x and value must be finite numbers above 0")
    if not isinstance(row["simulated"], bool):
        raise ValueError(f"row {number}: simulated must be true or false")
    return GrowthPoint(**{**row, "x": float(row["x"]), "value": float(row["value"])})


def _positive(value: Any) -> bool:
    """Whether a value is a number that a logarithmic axis can show; 1e300 is more than enough."""
    return type(value) in (int, float) and 0 < value < 1e300


def fit_exponent(sizes: list[float], values: list[float]) -> float:
    """Return p of value ~ size^p by least squares on logarithms; nan where all sizes are one."""
    if len(set(sizes)) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def group_by_series(points: list[GrowthPoint]) -> dict[str, list[GrowthPoint]]:
    """Return the points of each series by size; the series in the order given."""
    found: dict[str, list[GrowthPoint]] = {}
    for point in sorted(points, key=lambda p: p.x):
        found.setdefault(point.series, []).append(point)
    return {name: found[name] for name in dict.fromkeys(p.series for p in points)}


def draw_growth_plots(points: list[GrowthPoint]) -> list[Plot]:
    """Draw a plot for each thing that grows: a line a series, relative to its smallest size."""
    every = dict.fromkeys(p.what for p in points)
    return [_plot(what, group_by_series([p for p in points if p.what == what])) for what in every]


def _plot(what: str, found: dict[str, list[GrowthPoint]]) -> Plot:
    sizes = sorted({p.x for line in found.values() for p in line})
    most = max(abs(math.log10(p.value / line[0].value)) for line in found.values() for p in line)
    ticks = {"tickvals": round_values(sizes, 7), "ticktext": [format_count(s) for s in sizes]}
    frame = base_layout(
        380,
        xaxis=build_axis(escape_label(what), type="log", **ticks),
        yaxis=build_axis("times that of the smallest", type="log", range=[-most - 0.1, most + 0.1]),
    )
    figure, said = go.Figure(layout=frame), []
    for i, (name, line) in enumerate(found.items()):
        simulated = any(p.simulated for p in line)
        figure.add_scatter(
            x=round_values([p.x for p in line], 7),
            y=round_values([p.value / line[0].value for p in line]),
            name=escape_label(name),
            text=[_figure(p) for p in line],
            hovertemplate="%{x}: %{text}<extra>%{fullData.name}</extra>",
            mode="lines+markers",
            line={
                "color": PALETTE[i % len(PALETTE)],
                "width": 1.8,
                "dash": "dash" if simulated else "solid",
            },
        )
        said.append(_sentence(name, line))
    low, high = sizes[0], sizes[-1]
    figure.add_scatter(
        x=round_values([low, high], 7),
        y=round_values([1, high / low]),
        name="in proportion",
        mode="lines",
        line={"color": GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    summary = (
        f"Cost by {what}, {low:,.6g} to {high:,.6g}, on logarithmic axes; each line is relative to its "
        f"smallest size, and the dotted one grows in proportion. p is the exponent of value ~ size^p. "
        f"{' '.join(said)}"
    )
    return Plot(f"Growth with {what}", summary, figure)


def _figure(point: GrowthPoint) -> str:
    """Write a point's figure; it goes into a label of plotly."""
    return escape_label(f"{format_count(point.value)} {point.unit}" + " (simulated)" * point.simulated)


def _sentence(name: str, line: list[GrowthPoint]) -> str:
    grows = fit_exponent([p.x for p in line], [p.value for p in line])
    p = "" if math.isnan(grows) else f", p = {round(grows, 2) + 0.0:.2f}"  # and not -0.00
    simulated = ", simulated" if any(point.simulated for point in line) else ""
    first, last = format_count(line[0].value), format_count(line[-1].value)
    return f"{name}: {first} to {last} {line[0].unit}{p}{simulated}."

"""How cost grows with budgets, workers, the search space and the data: measurements and their plots.

`python -m benchmarks.growth` writes the measurements.
"""

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
MAX_VALUE = 1e300  # a logarithmic axis can show it


@dataclass(frozen=True)
class GrowthPoint:
    """One measurement.

    Attributes:
        what: What grows: budgets, workers, space or data.
        series: What is measured; the name of the line.
        x: Size of `what`.
        value: The measured value, above 0.
        unit: Unit of the value.
        simulated: Whether the value was computed from measured parts.
    """

    what: str
    series: str
    x: float
    value: float
    unit: str
    simulated: bool = False


def read_growth(path: str | Path) -> list[GrowthPoint]:
    """Read a file of measurements: a list of objects with the fields of `GrowthPoint`.

    Raises:
        UserError: The file is missing, damaged, too large, or not a file of measurements.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        rows = json.loads(raw)
        if not isinstance(rows, list) or not rows:
            raise ValueError("it does not contain a list of rows")
        return [_parse_point(number, row) for number, row in enumerate(rows, 1)]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(str(path))} is not a growth file ({first_line(error)}). "
            "Write one with `python -m benchmarks.growth --out FILE.json`."
        ) from None


def _parse_point(number: int, row: Any) -> GrowthPoint:
    """Return one row of the file as a point.

    Raises:
        ValueError: The row lacks a field, has an unknown one, or a value of the wrong type.
    """
    names = [field.name for field in fields(GrowthPoint)]
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"row {number} must have exactly the fields {', '.join(names)}")
    if not all(isinstance(row[name], str) and row[name] for name in ("what", "series", "unit")):
        raise ValueError(f"row {number}: what, series and unit must be texts")
    if not all(_is_positive(row[name]) for name in ("x", "value")):
        raise ValueError(f"row {number}: x and value must be finite numbers above 0")
    if not isinstance(row["simulated"], bool):
        raise ValueError(f"row {number}: simulated must be true or false")
    return GrowthPoint(**{**row, "x": float(row["x"]), "value": float(row["value"])})


def _is_positive(value: Any) -> bool:
    """Return whether a value is a number that a logarithmic axis can show."""
    return type(value) in (int, float) and 0 < value < MAX_VALUE


def fit_exponent(sizes: list[float], values: list[float]) -> float:
    """Fit p of value ~ size^p by least squares on logarithms; NaN if all sizes are equal."""
    if len(set(sizes)) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def format_exponent(sizes: list[float], values: list[float]) -> str:
    """Return the fitted exponent with two decimals; an empty text if all sizes are equal."""
    exponent = fit_exponent(sizes, values)
    if math.isnan(exponent):
        return ""
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(exponent, 2) + 0.0:.2f}"


def group_by_series(points: list[GrowthPoint]) -> dict[str, list[GrowthPoint]]:
    """Return the points of each series by ascending size; the series have the order of the points."""
    # The first occurrence of each series decides the order of the lines.
    series: dict[str, list[GrowthPoint]] = {point.series: [] for point in points}
    for point in sorted(points, key=lambda point: point.x):
        series[point.series].append(point)
    return series


def draw_growth_plots(points: list[GrowthPoint]) -> list[Plot]:
    """Draw one plot for each thing that grows, with one line for each series."""
    subjects = dict.fromkeys(point.what for point in points)
    return [
        _draw_plot(what, group_by_series([point for point in points if point.what == what]))
        for what in subjects
    ]


def _draw_plot(what: str, series: dict[str, list[GrowthPoint]]) -> Plot:
    sizes = sorted({point.x for line in series.values() for point in line})
    smallest, largest = sizes[0], sizes[-1]
    ratios = [point.value / line[0].value for line in series.values() for point in line]
    decades = max(abs(math.log10(ratio)) for ratio in ratios) + 0.1
    ticks = {"tickvals": round_values(sizes, 7), "ticktext": [format_count(size) for size in sizes]}
    layout = base_layout(
        380,
        xaxis=build_axis(escape_label(what), type="log", **ticks),
        yaxis=build_axis("value relative to the smallest size", type="log", range=[-decades, decades]),
    )

    figure = go.Figure(layout=layout)
    for position, (name, line) in enumerate(series.items()):
        simulated = any(point.simulated for point in line)
        figure.add_scatter(
            x=round_values([point.x for point in line], 7),
            y=round_values([point.value / line[0].value for point in line]),
            name=escape_label(name),
            text=[_format_point(point) for point in line],
            hovertemplate="%{x}: %{text}<extra>%{fullData.name}</extra>",
            mode="lines+markers",
            line={
                "color": PALETTE[position % len(PALETTE)],
                "width": 1.8,
                "dash": "dash" if simulated else "solid",
            },
        )

    # A line with slope 1 on logarithmic axes: the value grows in proportion to the size.
    figure.add_scatter(
        x=round_values([smallest, largest], 7),
        y=round_values([1, largest / smallest]),
        name="in proportion",
        mode="lines",
        line={"color": GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    summary = (
        f"Cost by {what}, from {smallest:,.6g} to {largest:,.6g}. Both axes are logarithmic. Each line "
        "is relative to its value at the smallest size. A line below the dotted one grows less than in "
        "proportion. p is the exponent of value ~ size^p. "
        f"{' '.join(_describe_line(name, line) for name, line in series.items())}"
    )
    return Plot(f"Growth with {what}", summary, figure)


def _format_point(point: GrowthPoint) -> str:
    """Return a point's value as text for a label of plotly."""
    text = f"{format_count(point.value)} {point.unit}"
    if point.simulated:
        text += " (simulated)"
    return escape_label(text)


def _describe_line(name: str, line: list[GrowthPoint]) -> str:
    """Return a series in one sentence: its first and last value, and its exponent."""
    first = format_count(line[0].value)
    last = format_count(line[-1].value)
    sentence = f"{name}: {first} to {last} {line[0].unit}"
    exponent = format_exponent([point.x for point in line], [point.value for point in line])
    if exponent:
        sentence += f", p = {exponent}"
    if any(point.simulated for point in line):
        sentence += ", simulated"
    return f"{sentence}."

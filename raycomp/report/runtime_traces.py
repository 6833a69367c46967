"""Axes of the Pareto plot for latency in a runtime: one per library, number of threads, batch and length.

On such an axis the plot shows files, each with the score that it computes. The quantised teacher is
a point of its own: a user without raycomp would deploy it.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from raycomp.report.axes import COSTS
from raycomp.report.formatting import format_number, format_percent, format_score
from raycomp.report.loading import RunTables
from raycomp.report.pareto_front import find_pareto_front
from raycomp.report.pareto_traces import build_points, join_lines
from raycomp.report.plot import (
    GREY,
    build_axis,
    escape_label,
    method_color,
    method_marker,
    round_values,
)
from raycomp.report.runtime_table import CONDITIONS, LIBRARIES, PRECISIONS, list_files

EXPLANATION = (
    "On the axes of ONNX Runtime and OpenVINO, a mark is a file with the validation score that it "
    "computes. Filled marks are in INT8 and open marks in fp32; stars are the teacher's files."
)
HIDDEN = {"visible": False}


def add_runtime_axes(
    tables: RunTables, traces: list[dict[str, Any]], variants: dict[str, Any], metric: str
) -> dict[str, str]:
    """Add traces and variants for the table `runtimes`, and return key -> label of their axes.

    Args:
        tables: Tables of comparable runs.
        traces: Traces of the other axes, without coordinates. The new ones are appended.
        variants: Variants of the other axes, by key. The new ones are added.
        metric: Name of the metric.
    """
    if tables.runtimes.empty:
        return {}
    files = list_files(tables.runtimes)
    choices = {}

    for cost in COSTS:
        # A trace that another axis hides must appear again.
        variants[cost]["data"] = [{"visible": True, **patch} for patch in variants[cost]["data"]]
    conditions = ["library", *CONDITIONS]
    for (name, threads, batch, length, lengths), rows in files.groupby(conditions, sort=True):
        library = LIBRARIES[str(name)]
        noun = "thread" if threads == 1 else "threads"
        condition = f"{threads} {noun}, batch {batch}, {lengths or length} tokens"
        key = "_".join([str(name), *re.findall(r"\w+", f"{threads} {batch} {length} {lengths}")])
        choices[key] = f"{library} ({condition})"

        own = _build_traces(rows, library, len(tables.runs) > 1)
        axis = build_axis(f"p50_ms (median forward pass in {library}, ms, {condition})")
        _append(variants, len(traces), own)
        variants[key] = {
            "data": [HIDDEN] * len(traces) + [_coordinates(trace) for trace in own],
            "layout": {
                "xaxis": {**axis, "rangemode": "tozero"},
                "yaxis": build_axis(escape_label(metric)),
                "shapes": [],
                "annotations": [],
            },
        }
        traces += [{name: value for name, value in trace.items() if name != "x"} for trace in own]

    return choices


def _append(variants: dict[str, Any], count: int, own: list[dict[str, Any]]) -> None:
    """Hide new traces on the axes that exist; `count` traces exist."""
    for variant in variants.values():
        variant["data"] = variant["data"][:count] + [HIDDEN] * len(own)


def _coordinates(trace: dict[str, Any]) -> dict[str, Any]:
    return {"visible": True, "x": trace["x"]}


def _build_traces(files: pd.DataFrame, library: str, has_several_runs: bool) -> list[dict[str, Any]]:
    """Return a trace per method and precision, and the front of all files of one library."""
    traces = []
    for (method, runtime), rows in files.groupby(["method", "runtime"], sort=False):
        is_int8 = str(runtime).endswith("-int8")
        texts = [_describe(row, has_several_runs) for row in rows.to_dict("records")]
        trace = build_points(f"{method}, {PRECISIONS[str(runtime)]}", texts, rows["validation"])

        is_teacher = method == "teacher"
        symbol = "star" if is_teacher else method_marker(str(method))
        trace["marker"] = {
            "color": GREY if is_teacher else method_color(str(method)),
            # Open marks are files in fp32.
            "symbol": symbol if is_int8 else f"{symbol}-open",
            "size": 15 if is_teacher else 13,
        }
        traces.append({**trace, "x": round_values(rows["p50_ms"], 6)})

    front = find_pareto_front(files, "validation", "p50_ms")
    line = {"shape": "hv", "width": 1.5, "color": GREY}
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"front in {library}",
            "line": line,
            "hoverinfo": "skip",
            "y": round_values(front["validation"]),
            "x": round_values(front["p50_ms"], 6),
        }
    )
    return traces


def _describe(row: dict[Any, Any], has_several_runs: bool) -> str:
    speed = format_number(row["speedup"], 2)
    lines = [
        row["file"],
        f"validation {format_score(row['validation'])} · retention {format_percent(row['retention'])}",
        f"p50 {format_number(row['p50_ms'], 2)} ms · {format_number(row['size_mb'], 1)} MB",
        f"{speed} times as fast as the teacher in INT8" if speed else "",
    ]
    return join_lines([line for line in lines if line], row["run"] if has_several_runs else None)

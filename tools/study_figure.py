"""A finished study as a picture, from the same rows as its tables: part of tools.study_page.

A panel for each task and budget: mean over seeds with its 95% interval, the teacher as a line with its
own, the paper's figure as a hollow diamond. A search's panel has its ten best over evaluations; a
ranking's, inherited against stand-alone scores.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raycomp.report import ablation_table
from raycomp.report.study_results import StudyResults, search_table

WIDTH, HEIGHT = 4.2, 2.6  # inches of a panel
BLUE, GREY, ORANGE = "#2a6fbb", "#888888", "#c9631c"
LINES = (BLUE, ORANGE, "#3d8f5f", "#8a5aa8")


def draw_study(study: StudyResults) -> Figure:
    """Return a figure with every panel that the study has rows for."""
    table = ablation_table(study)
    scored = table[table["budget"] != "teacher"]
    panels = [
        lambda axes, rows=rows: _scores(axes, rows, table)
        for _, rows in scored.groupby(["task", "budget"], sort=False)
    ]
    searched = search_table(study)
    if study.compares_searchers and searched["variant"].nunique() > 1:
        panels += [
            lambda axes, rows=rows: _search(axes, rows)
            for _, rows in searched.groupby("task", sort=False)
        ]
    drawn = study.frame[study.frame["method"].isin(("inherited", "alone"))]
    panels += [
        lambda axes, rows=rows: _ranks(axes, rows) for _, rows in drawn.groupby("task", sort=False)
    ]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    # Text stays text, and ids do not change from one drawing to the next.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": study.name, "font.size": 8})
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * lines), layout="constrained")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.spines[["top", "right"]].set_visible(False)
        panel(axes)
    return figure


def _scores(axes: Axes, rows: pd.DataFrame, table: pd.DataFrame) -> None:
    first = rows.iloc[0]
    names = [str(v) for v in rows["variant"]]
    y = list(range(len(names)))[::-1]
    teacher = table[(table["budget"] == "teacher") & (table["task"] == first["task"])]
    if len(teacher):
        one = teacher.iloc[0]
        axes.axvspan(one["low"], one["high"], color=GREY, alpha=0.15, lw=0)
        axes.axvline(one["mean"], color=GREY, lw=1, label="teacher")
    error = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
    axes.errorbar(
        rows["mean"], y, xerr=error, fmt="o", ms=4, color=BLUE, capsize=2, lw=1, label="raycomp"
    )
    if rows["published"].notna().any():
        axes.plot(rows["published"], y, "D", ms=5, mfc="none", color=ORANGE, label="paper")
    axes.set_yticks(y, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"validation {first['metric']}, 95% interval")
    axes.set_title(f"{first['task']}, {first['budget']}", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=7)


def _search(axes: Axes, rows: pd.DataFrame) -> None:
    for (name, line), color in zip(rows.groupby("variant", sort=False), cycle(LINES), strict=False):
        axes.plot(line["evaluations"], line["best10"], marker="o", ms=3, color=color, label=str(name))
    axes.set_xlabel("evaluations")
    axes.set_ylabel("selection, mean of ten best")
    axes.set_title(f"{rows['task'].iloc[0]}, search", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=7)


def _ranks(axes: Axes, rows: pd.DataFrame) -> None:
    scores: list[Any] = []
    for seed, color in zip(sorted(rows["seed"].unique()), cycle(LINES), strict=False):
        mine = rows[rows["seed"] == seed]
        wide = mine.pivot_table(index=["variant", "budget"], columns="method", values="value")
        axes.plot(wide["inherited"], wide["alone"], "o", ms=3, color=color, label=f"seed {seed}")
        scores += [*wide["inherited"], *wide["alone"]]
    ends = [min(scores), max(scores)]
    axes.plot(ends, ends, color=GREY, lw=0.8)
    axes.set_xlabel("inherited, selection")
    axes.set_ylabel("fine-tuned alone")
    axes.set_title(f"{rows['task'].iloc[0]}, drawn sub-networks", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=7)

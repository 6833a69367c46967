"""Draw a finished study, from the same rows as its tables; `tools.study_page` uses it.

Each task and budget has a panel with the mean over seeds and its 95% interval. The teacher is a line with
its interval, and the paper's figure is a hollow diamond. A search has a panel with the mean of its ten
best scores over evaluations. A ranking has a panel with inherited scores and scores after separate
fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import cycle

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raycomp.report import ablation_table, find_pareto_front
from raycomp.report.predictions import TEACHER
from raycomp.report.study_measures import search_table
from raycomp.report.study_results import StudyResults

MANY_LABELS = 8  # from which a legend is set in two columns of small type
WIDTH = 4.2  # inches of a panel
HEIGHT = 2.6
MAX_COLUMNS = 2
BLUE = "#2a6fbb"
GREY = "#888888"
ORANGE = "#c9631c"
LINES = (BLUE, ORANGE, "#3d8f5f", "#8a5aa8")
MARKERS = "os^Dv<>P"
COSTS = {
    "params": "parameters of the whole model",
    "flops": "FLOPs of one text",
    "latency_ms": "milliseconds for one text, one thread",
}

Panel = Callable[[Axes], None]


def draw_study(study: StudyResults) -> Figure:
    """Return a figure with every panel that the study has rows for."""
    panels = _list_panels(study)
    num_columns = min(MAX_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)

    # Text stays text, and the same study always gives the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": study.name, "font.size": 8})
    figure = Figure(figsize=(WIDTH * num_columns, HEIGHT * num_rows), layout="constrained")
    for position, draw_panel in enumerate(panels, 1):
        axes = figure.add_subplot(num_rows, num_columns, position)
        axes.spines[["top", "right"]].set_visible(False)
        draw_panel(axes)
        num_labels = len(axes.get_legend_handles_labels()[1])
        small = num_labels > MANY_LABELS
        axes.legend(frameon=False, fontsize=4.5 if small else 7, ncols=2 if small else 1)
    return figure


def _list_panels(study: StudyResults) -> list[Panel]:
    table = ablation_table(study)
    variants = table[table["budget"] != TEACHER]
    panels: list[Panel] = []
    for _, rows in variants.groupby(["task", "budget"], sort=False):
        panels.append(partial(_draw_scores, rows=rows, table=table))

    panels += _list_cost_panels(study, table)
    searches = search_table(study)
    if study.compares_searchers and searches["variant"].nunique() > 1:
        for _, rows in searches.groupby("task", sort=False):
            panels.append(partial(_draw_search, rows=rows))

    ranked = study.frame[study.frame["kind"] == "ranking"]
    for _, rows in ranked.groupby("task", sort=False):
        panels.append(partial(_draw_ranking, rows=rows))
    return panels


def _list_cost_panels(study: StudyResults, table: pd.DataFrame) -> list[Panel]:
    """Return the panels of scores over costs, where the study compares methods."""
    scores = study.frame[(study.frame["kind"] == "score") & (study.frame["method"] != TEACHER)]
    if not study.compares_methods or not scores["flops"].notna().any():
        return []
    panels = []
    for task, rows in scores.groupby("task", sort=False):
        means = rows.groupby(["variant", "budget"], sort=False)[["value", *COSTS]].mean().reset_index()
        teachers = table[(table["budget"] == TEACHER) & (table["task"] == task)]
        teacher = float(teachers["mean"].iloc[0]) if len(teachers) else math.nan
        # Rows of earlier studies may lack a cost.
        for cost in [name for name in COSTS if means[name].notna().any()]:
            panels.append(partial(_draw_front, means=means, cost=cost, teacher=teacher, task=str(task)))
    return panels


def _draw_front(axes: Axes, means: pd.DataFrame, cost: str, teacher: float, task: str) -> None:
    """Draw each variant's mean score over one cost, and the front."""
    front = find_pareto_front(means, "value", cost).sort_values(cost)
    axes.step(front[cost], front["value"], where="post", color=GREY, lw=0.8, label="front")
    if not math.isnan(teacher):
        axes.axhline(teacher, color=GREY, lw=0.8, ls=":", label="teacher")
    for number, (variant, rows) in enumerate(means.groupby("variant", sort=False)):
        rows = rows.sort_values(cost)
        color, marker = LINES[number % len(LINES)], MARKERS[number // len(LINES) % len(MARKERS)]
        axes.plot(rows[cost], rows["value"], marker, ms=3.5, color=color, label=str(variant))
    axes.set_xscale("log")
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("validation score")
    axes.set_title(f"{task}, over {cost}", loc="left", fontsize=9)


def _draw_scores(axes: Axes, rows: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the variants of one task and budget; `table` has the teacher's row."""
    head = rows.iloc[0]
    names = [str(variant) for variant in rows["variant"]]
    positions = list(range(len(names)))[::-1]

    teachers = table[(table["budget"] == TEACHER) & (table["task"] == head["task"])]
    if len(teachers):
        teacher = teachers.iloc[0]
        axes.axvspan(teacher["low"], teacher["high"], color=GREY, alpha=0.15, lw=0)
        axes.axvline(teacher["mean"], color=GREY, lw=1, label="teacher")

    error = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
    axes.errorbar(
        rows["mean"], positions, xerr=error, fmt="o", ms=4, color=BLUE, capsize=2, lw=1, label="raycomp"
    )
    if rows["published"].notna().any():
        axes.plot(rows["published"], positions, "D", ms=5, mfc="none", color=ORANGE, label="paper")

    axes.set_yticks(positions, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(f"validation {head['metric']}, 95% interval")
    axes.set_title(f"{head['task']}, {head['budget']}", loc="left", fontsize=9)


def _draw_search(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the progress of each searcher on one task."""
    for (name, line), color in zip(rows.groupby("variant", sort=False), cycle(LINES), strict=False):
        axes.plot(line["evaluations"], line["best10"], marker="o", ms=3, color=color, label=str(name))
    axes.set_xlabel("evaluations")
    axes.set_ylabel("selection, mean of ten best")
    axes.set_title(f"{rows['task'].iloc[0]}, search", loc="left", fontsize=9)


def _draw_ranking(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw inherited scores and scores after separate fine-tuning of the same sub-networks."""
    scores: list[float] = []
    for seed, color in zip(sorted(rows["seed"].unique()), cycle(LINES), strict=False):
        seed_rows = rows[rows["seed"] == seed]
        pairs = seed_rows.pivot_table(index=["variant", "budget"], columns="method", values="value")
        axes.plot(pairs["inherited"], pairs["retrained"], "o", ms=3, color=color, label=f"seed {seed}")
        scores += [*pairs["inherited"], *pairs["retrained"]]

    # On the diagonal both scores are equal.
    diagonal = [min(scores), max(scores)]
    axes.plot(diagonal, diagonal, color=GREY, lw=0.8)
    axes.set_xlabel("inherited score, selection")
    axes.set_ylabel("fine-tuned separately")
    axes.set_title(f"{rows['task'].iloc[0]}, sampled sub-networks", loc="left", fontsize=9)

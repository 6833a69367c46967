"""Draw the Pareto picture of a run for README.md, as two SVG files for light and for dark pages.

    python -m tools.readme_figure runs/quickstart-1f3a9c02 --out docs/images

Writes pareto-light.svg and pareto-dark.svg. They show the validation score of the teacher and of each
deployed model over a cost, with 95% intervals.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.run_all import ROOT
from raycomp.errors import UserError
from raycomp.report import find_pareto_front, load_tables
from raycomp.report.formatting import format_count
from raycomp.report.loading import RunTables
from raycomp.report.predictions import TEACHER
from raycomp.report.score_uncertainty import measure_uncertainty
from raycomp.report.teacher_scores import derive_teacher_costs

IMAGES = ROOT / "docs" / "images"
SIZE = (8.0, 4.2)  # inches: 768 x 403 CSS pixels
COST_LABELS = {
    "latency_ms": "latency on a CPU: median forward pass of one sequence (ms)",
    "params": "parameters of the whole model (millions)",
}
MILLION = 1e6
CROWDED = 0.11  # share of the axis below which the labels of two neighbours would overlap


@dataclass(frozen=True)
class Theme:
    """Colours of the picture."""

    ink: str
    soft: str
    grid: str
    subnetwork: str
    cnn: str
    other: str


THEMES = {
    "light": Theme("#1b1f24", "#57606a", "#d8dee4", "#1f6fc9", "#c2570c", "#238152"),
    "dark": Theme("#e6edf3", "#9aa4af", "#30363d", "#58a6ff", "#f0883e", "#3fb97a"),
}


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="Run directory.")
    parser.add_argument("--out", type=Path, default=IMAGES, help="Directory of the two files.")
    parser.add_argument(
        "--cost", choices=list(COST_LABELS), default="latency_ms", help="Horizontal axis."
    )
    parser.add_argument("--title", help="Title of the picture. The default names the task.")
    args = parser.parse_args()
    try:
        for path in write_figures(args.run, args.out, args.cost, args.title):
            print(path)
    except UserError as error:
        sys.exit(str(error))


def write_figures(
    run_dir: Path, out: Path, cost: str = "latency_ms", title: str | None = None
) -> list[Path]:
    """Write the picture of a run once for each theme.

    Args:
        run_dir: The run directory.
        out: Directory of the files; it is created if it does not exist.
        cost: Column of the horizontal axis, a key of `COST_LABELS`.
        title: Title of the picture; None names the task and the metric.

    Returns:
        The files.

    Raises:
        UserError: The directory does not contain exactly one run with a teacher and deployed models.
    """
    tables = load_tables(run_dir)
    points = collect_points(tables, cost)
    (run,) = tables.runs
    heading = title or f"{run.task}: {run.metric} of the compressed models and their teacher"
    examples = " + ".join(f"{count:,}" for count in run.examples("validation"))

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, theme in THEMES.items():
        path = out / f"pareto-{name}.svg"
        figure = draw_points(points, theme, cost, f"validation {run.metric}", heading, examples)
        # Without a date, the same run always gives the same file.
        figure.savefig(path, metadata={"Date": None}, transparent=True)
        paths.append(path)
    return paths


def collect_points(tables: RunTables, cost: str) -> pd.DataFrame:
    """Return one row for the teacher and one for each different deployed model.

    Args:
        tables: Tables of one run.
        cost: Column of the costs.

    Returns:
        Columns `label`, `method`, `cost`, `params`, `score`, `low` and `high`, by ascending cost. Budgets
        that chose the same architecture are one row with both names.

    Raises:
        UserError: There is not exactly one run, or it has no teacher or no deployed model.
    """
    if len(tables.runs) != 1:
        raise UserError(
            f"The picture shows one run, but {len(tables.runs)} were found. Name one run directory."
        )
    (run,) = tables.runs
    teacher = run.teacher_score("validation")
    deployed = tables.deployments[tables.deployments["validation"].notna()]
    if teacher is None or run.metric is None or deployed.empty:
        raise UserError(f"Run {run.name} has no deployed models yet. Wait until it has finished.")

    costs = derive_teacher_costs(tables, run)
    point: dict[str, Any] = {"label": TEACHER, "method": TEACHER, "cost": costs[cost]}
    points = [point | {"params": costs["params"], "score": teacher, "budget": TEACHER}]
    # Equal architectures have equal weights and differ only in their measured latency.
    for _, rows in deployed.groupby(["method", "arch_id"], sort=False):
        head = rows.iloc[0]
        label = "CNN" if head["method"] == "adabert" else ", ".join(rows["budget"])
        point = {"label": label, "method": head["method"], "cost": head[cost], "params": head["params"]}
        points.append(point | {"score": head["validation"], "budget": head["budget"]})

    for point in points:
        uncertainty = measure_uncertainty(
            run, str(point["method"]), str(point.pop("budget")), run.metric, float(point["score"])
        )
        # Without the number of examples or saved outputs, a point is drawn without a bar.
        point |= {"low": None, "high": None}
        if uncertainty is not None:
            point["low"], point["high"] = uncertainty.interval
    return pd.DataFrame(points).sort_values("cost").reset_index(drop=True)


def draw_points(
    points: pd.DataFrame, theme: Theme, cost: str, score_label: str, title: str, examples: str
) -> Figure:
    """Return the picture of a run.

    Args:
        points: What `collect_points` returns.
        theme: Colours.
        cost: Column of the costs, a key of `COST_LABELS`.
        score_label: Label of the vertical axis.
        title: Title of the picture.
        examples: Number of validation examples, as text.
    """
    if cost == "params":
        points = points.assign(cost=points["cost"] / MILLION)
    # Text stays text, and ids do not change from one drawing to the next.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "raycomp", "font.size": 10.5})
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    _draw_lines(axes, points, theme)
    for method, rows in points.groupby("method", sort=False):
        _draw_marks(axes, rows, str(method), theme)
    _write_labels(axes, points, theme)
    _style_axes(axes, theme)

    axes.set_xlabel(COST_LABELS[cost], color=theme.ink)
    axes.set_ylabel(score_label, color=theme.ink)
    axes.set_title(title, loc="left", color=theme.ink, fontsize=12, fontweight="bold", pad=22)
    note = f"Up and to the left is better. Bars: 95% intervals over {examples} validation examples."
    axes.text(0, 1.03, note, transform=axes.transAxes, color=theme.soft, fontsize=9.5)
    axes.legend(loc="lower right", frameon=False, labelcolor=theme.ink, fontsize=9.5)
    return figure


def _draw_lines(axes: Axes, points: pd.DataFrame, theme: Theme) -> None:
    """Draw the teacher's score and the front of the compressed models."""
    is_teacher = points["method"] == TEACHER
    axes.axhline(points[is_teacher]["score"].iloc[0], color=theme.soft, lw=1, ls=":")
    front = find_pareto_front(points[~is_teacher], "score", "cost")
    axes.step(front["cost"], front["score"], where="post", color=theme.soft, lw=1)


def _draw_marks(axes: Axes, rows: pd.DataFrame, method: str, theme: Theme) -> None:
    name, marker, size, color = {
        TEACHER: ("teacher", "*", 15, theme.soft),
        "yoco": ("sub-network (YOCO-BERT)", "o", 8, theme.subnetwork),
        "adabert": ("CNN (AdaBERT)", "D", 7.5, theme.cnn),
    }.get(method, (method, "s", 7.5, theme.other))
    error = [rows["score"] - rows["low"], rows["high"] - rows["score"]]
    axes.errorbar(
        rows["cost"],
        rows["score"],
        yerr=None if rows["low"].isna().any() else error,
        fmt=marker,
        ms=size,
        color=color,
        capsize=3,
        lw=1.2,
        label=name,
    )


def _write_labels(axes: Axes, points: pd.DataFrame, theme: Theme) -> None:
    """Write the name and size of each model above its bar.

    The label is below the bar if its left neighbour is close, or if it would cross the teacher's line.
    """
    span = points["cost"].max() or 1.0
    teacher = points[points["method"] == TEACHER]["score"].iloc[0]
    bars = points.assign(
        low=points["low"].fillna(points["score"]), high=points["high"].fillna(points["score"])
    )
    is_below = False
    previous = None
    for row in bars.to_dict("records"):
        is_crowded = previous is not None and (row["cost"] - previous) / span < CROWDED
        is_below = (is_crowded and not is_below) or row["high"] < teacher
        previous = row["cost"]

        end, offset, alignment = row["high"], 6, "bottom"
        if is_below:
            end, offset, alignment = row["low"], -6, "top"
        axes.annotate(
            f"{row['label']}\n{format_count(row['params'])} params",
            (row["cost"], end),
            xytext=(0, offset),
            textcoords="offset points",
            ha="center",
            va=alignment,
            color=theme.ink,
            fontsize=9,
        )


def _style_axes(axes: Axes, theme: Theme) -> None:
    axes.margins(x=0.1, y=0.2)
    axes.set_xlim(left=0)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.soft)
    axes.tick_params(colors=theme.ink)


if __name__ == "__main__":
    main()

"""The values that the page's template shows: of a study, of comparable runs, and of a single run."""

from __future__ import annotations

import functools
import json
from typing import Any

from raycomp.config.flatten import flatten_settings
from raycomp.report.controller_noise import find_controller_band
from raycomp.report.cost_table import COST_MEANINGS, build_cost_table
from raycomp.report.curves import draw_loss_plots, draw_search_plots
from raycomp.report.distribution import draw_distribution_plots
from raycomp.report.drawings import build_drawings
from raycomp.report.loading import RunTables
from raycomp.report.pareto_plot import draw_pareto_plot
from raycomp.report.plot import Plot
from raycomp.report.run_record import RunRecord
from raycomp.report.runtime_table import RUNTIME_MEANINGS, build_runtime_table
from raycomp.report.study_results import StudyResults
from raycomp.report.study_sentences import build_study_sentences, format_study_heading
from raycomp.report.study_tables import build_study_tables
from raycomp.report.summary_table import build_summary_table
from raycomp.report.uncertainty_section import build_uncertainty_section


class PlacedPlots:
    """The plots of one page; each gets an id that no other has."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, plot: Plot) -> dict[str, Any]:
        """Return what the template needs to show a plot."""
        self._count += 1
        return {
            "id": f"plot-{self._count}",
            "title": plot.title,
            "summary": plot.summary,
            "choices": plot.choices,
            "payload": plot.payload(),
        }


def build_study(study: StudyResults) -> dict[str, Any]:
    """Return the title, tables and sentences of a study."""
    return {
        "title": format_study_heading(study),
        "tables": build_study_tables(study),
        "sentences": build_study_sentences(study),
    }


def group_comparable_runs(tables: RunTables) -> list[tuple[str, RunTables]]:
    """Split runs by task and metric, because only such runs belong in one table and one plot.

    Returns:
        Metric and tables of each group.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for run in tables.runs:
        validation_file = str(run.setting("task", "validation") or "")
        key = (f"{run.task} {validation_file}", run.metric or "")
        groups.setdefault(key, []).append(run.name)
    return [(metric, tables.of(*names)) for (_, metric), names in groups.items()]


def build_group(tables: RunTables, metric: str, num_points: int, plots: PlacedPlots) -> dict[str, Any]:
    """Return tables, Pareto plot and uncertainty section of comparable runs."""
    plot = draw_pareto_plot(tables, metric, num_points)
    return {
        "task": tables.runs[0].task,
        "metric": metric or "score",
        "has_several_runs": len(tables.runs) > 1,
        "summary": build_summary_table(tables),
        "costs": build_cost_table(tables.costs),
        "cost_meanings": COST_MEANINGS,
        "runtimes": build_runtime_table(tables.runtimes),
        "runtime_meanings": RUNTIME_MEANINGS,
        "plot": plots.add(plot) if plot else None,
        "uncertainty": build_uncertainty_section(tables, metric),
    }


def build_run(
    tables: RunTables, run: RunRecord, curve: int, moments: int, plots: PlacedPlots
) -> dict[str, Any]:
    """Return curves, distributions, drawings and settings of one run.

    Args:
        tables: Tables of the run.
        run: Its record.
        curve: Largest number of points of a curve.
        moments: Largest number of columns of a heat map.
        plots: The page's plots.
    """
    find_band = functools.partial(find_controller_band, run)
    return {
        "name": run.name,
        "supernet_source": run.shared.get("supernet"),
        "losses": [plots.add(plot) for plot in draw_loss_plots(tables.steps, curve)],
        "searches": [plots.add(plot) for plot in draw_search_plots(tables.steps, curve, find_band)],
        "distributions": [
            {"plot": plots.add(plot), "likely_choices": choices}
            for plot, choices in draw_distribution_plots(tables.distribution, moments)
        ],
        "drawings": build_drawings(tables),
        "overview": run.overview,
        "settings": format_settings(run.job),
        "environment": run.environment,
    }


def format_settings(settings: dict[str, Any]) -> dict[str, str]:
    """Return settings as dotted keys with their values as JSON, which TOML writes in the same way."""
    flat = flatten_settings(settings)
    return {
        key: "not set" if value is None else json.dumps(value, ensure_ascii=False)
        for key, value in flat.items()
    }


def find_differences(runs: tuple[RunRecord, ...]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, with a value for each run."""
    if len(runs) < 2:
        return {}

    settings_of_runs = [format_settings(run.job) for run in runs]
    keys = dict.fromkeys(key for settings in settings_of_runs for key in settings)
    rows = {key: [settings.get(key, "") for settings in settings_of_runs] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}

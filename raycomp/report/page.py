"""One self-contained HTML page of a run or a set of runs."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raycomp.errors import UserError
from raycomp.report.curves import draw_controller_plots, draw_loss_plots, draw_theta_plots
from raycomp.report.drawings import build_drawings
from raycomp.report.formatting import format_score
from raycomp.report.growth import GrowthPoint, draw_growth_plots, read_growth
from raycomp.report.loading import RunRecord, RunTables, load_tables
from raycomp.report.pareto_plot import draw_pareto_plot
from raycomp.report.plot import Plot
from raycomp.report.study_results import StudyResults
from raycomp.report.study_tables import build_study_sentences, build_study_tables, format_study_heading
from raycomp.report.summary_table import build_summary_table
from raycomp.report.uncertainty_section import build_uncertainty_section
from raycomp.storage.environment import describe_environment
from raycomp.storage.files import write_text

LIMIT = 6_000_000  # bytes
DETAILS = (1.0, 0.5, 0.25, 0.1, 0.0)  # shares of the points below, tried until the page fits
POINTS, CURVE, MOMENTS = 2000, 400, 60  # evaluated architectures; of a curve; of a heat map
SHARED = 4  # so many runs have all the points of curves; more share them


def write_report(
    paths: str | Path | Iterable[str | Path], out: str | Path, growth: str | Path | None = None
) -> Path:
    """Write one HTML page of one or several runs; it needs no network, and no other file.

    Works while a run writes: what is not there yet is said to be missing.

    Args:
        paths: folders of runs, or storage folders that hold runs.
        out: the page, replaced at once if it exists.
        growth: what `python -m benchmarks.growth` wrote, to draw how cost grows; None leaves it out.

    Returns:
        `out`.

    Raises:
        UserError: as `load` and `read_growth`; the page cannot be written; or the runs are too many for
            LIMIT bytes.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    tables = load_tables(*given)
    points = [] if growth is None else read_growth(growth)
    size, studies = 0, [_study(study) for study in tables.studies]
    for detail in DETAILS:
        page = render_page(tables, detail, points, studies)
        size = len(page.encode())
        if size <= LIMIT:
            return write_text(Path(out), page)
    raise UserError(
        f"{len(tables.runs)} runs make a page of {size / 1e6:.1f} MB; allowed are {LIMIT / 1e6:.0f} MB: "
        "give fewer runs"
    )


def render_page(
    tables: RunTables,
    detail: float = 1.0,
    points: Sequence[GrowthPoint] = (),
    studies: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Return the page as text.

    Args:
        tables: of all runs.
        detail: the share of the runs' points that is drawn; 0 leaves out what belongs to one run alone,
            and says so.
        points: of how cost grows; without any, the page has no such section.
        studies: as `_study` gives them, where they are made already.
    """
    if studies is None:
        studies = [_study(study) for study in tables.studies]
    style, script, plotly = _part("style.css.j2"), _part("page.js.j2"), _plotly()
    plots: list[dict[str, Any]] = []

    def placed(plot: Plot) -> dict[str, Any]:
        """Give a plot its place in the page, and its id."""
        name = f"plot-{len(plots) + 1}"
        view = {"id": name, "title": plot.title, "summary": plot.summary, "choices": plot.choices}
        plots.append({**view, "payload": plot.payload()})
        return plots[-1]

    share = min(1.0, SHARED / max(1, len(tables.runs)))
    curve, moments = round(CURVE * detail * share), round(MOMENTS * detail * share)
    groups = [
        _group(part, metric, detail or DETAILS[-2], placed)
        for metric, part in group_comparable_runs(tables)
    ]
    shown = tables.runs if detail else ()
    runs = [_run(tables.of(run.name), run, curve, moments, placed) for run in shown]
    names = [run.name for run in tables.runs]
    return _environment().get_template("report.html.j2").render(
        title=_title(tables),
        names=names,
        studies=studies,
        left_out=len(tables.runs) - len(runs),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        groups=groups,
        runs=runs,
        growth=[placed(p) for p in draw_growth_plots(list(points))],
        differing=_differing(tables.runs),
        here=describe_environment(),
        policy=f"script-src '{_digest(plotly)}' '{_digest(script)}'",
        style=Markup(style),  # nosec B704  # ours, without data
        script=Markup(script),  # nosec B704  # ours, without data
        plotly=Markup(plotly),  # nosec B704  # ours, without data
    )  # fmt: skip


def _title(tables: RunTables) -> str:
    studies, runs = len(tables.studies), len(tables.runs)
    inside = sum(run.path.parent.parent in [s.path for s in tables.studies] for run in tables.runs)
    if studies == 1 and inside == runs:
        return tables.studies[0].id
    if runs == 1 and not studies:
        return tables.runs[0].name
    parts = [f"{studies} stud{'y' if studies == 1 else 'ies'}"] if studies else []
    parts += [f"{runs} run{'' if runs == 1 else 's'}"] if runs or not studies else []
    return ", ".join(parts)


def _study(study: StudyResults) -> dict[str, Any]:
    return {
        "title": format_study_heading(study),
        "tables": build_study_tables(study),
        "sentences": build_study_sentences(study),
    }


def group_comparable_runs(tables: RunTables) -> list[tuple[str, RunTables]]:
    """Split runs by task and metric: only such runs belong in one table and one plot."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in tables.runs:
        validation = str(run.setting("task", "validation") or "")
        found.setdefault((f"{run.task} {validation}", run.metric or ""), []).append(run.name)
    return [(metric, tables.of(*names)) for (_, metric), names in found.items()]


def _group(tables: RunTables, metric: str, detail: float, placed: Any) -> dict[str, Any]:
    plot = draw_pareto_plot(tables, metric, round(POINTS * detail))
    return {
        "task": tables.runs[0].task,
        "metric": metric or "score",
        "several": len(tables.runs) > 1,
        "headline": build_summary_table(tables),
        "plot": placed(plot) if plot else None,
        "reading": build_uncertainty_section(tables, metric),
    }


def _run(tables: RunTables, run: RunRecord, curve: int, moments: int, placed: Any) -> dict[str, Any]:
    return {
        "name": run.name,
        "taken": run.shared.get("supernet"),
        "losses": [placed(p) for p in draw_loss_plots(tables.steps, curve)],
        "controllers": [placed(p) for p in draw_controller_plots(tables.steps, curve)],
        "thetas": [
            {"plot": placed(plot), "likeliest": rows}
            for plot, rows in draw_theta_plots(tables.distribution, moments)
        ],
        "drawings": build_drawings(tables),
        "settings": flatten_settings(run.job),
        "environment": run.environment,
    }


def flatten_settings(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return settings as dotted keys and their values as TOML writes most of them."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found |= flatten_settings(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for i, entry in enumerate(value):
                found |= flatten_settings(entry, f"{name}.{i}.")
        else:
            found[name] = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return found


def _differing(runs: tuple[RunRecord, ...]) -> dict[str, list[str]]:
    """Return the settings that differ between runs, a value per run."""
    if len(runs) < 2:
        return {}
    every = [flatten_settings(run.job) for run in runs]
    keys = dict.fromkeys(key for settings in every for key in settings)
    rows = {key: [settings.get(key, "") for settings in every] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


@functools.cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("raycomp.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    found.filters["format_score"] = format_score
    return found


def _part(name: str) -> str:
    """Return our own style or script; neither holds data."""
    return _environment().get_template(name).render().strip()


@functools.cache
def _plotly() -> str:
    """Return plotly's script as a page may hold it, with the line ends that a browser reads."""
    text: str = get_plotlyjs()
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").strip()


def _digest(script: str) -> str:
    """Return what the page's policy allows to run: this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

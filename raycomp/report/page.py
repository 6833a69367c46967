"""One self-contained HTML page of a run or of several runs: from its paths to the file."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raycomp.errors import UserError
from raycomp.report.formatting import format_score, plural
from raycomp.report.growth import GrowthPoint, draw_growth_plots, read_growth
from raycomp.report.loading import RunTables, load_tables
from raycomp.report.page_sections import (
    PlacedPlots,
    build_group,
    build_run,
    build_study,
    find_differences,
    group_comparable_runs,
)
from raycomp.storage.environment import describe_environment
from raycomp.storage.files import write_text

LIMIT = 6_000_000  # bytes of a page
DETAILS = (1.0, 0.5, 0.25, 0.1, 0.0)  # shares of all points, tried in order until the page fits
POINTS = 2000  # evaluated architectures of one plot at full detail
CURVE = 400  # points of one curve at full detail
MOMENTS = 60  # columns of one heat map at full detail
FULL_RUNS = 4  # number of runs that get full curves; more runs share as many points


def write_report(
    paths: str | Path | Iterable[str | Path], out: str | Path, growth: str | Path | None = None
) -> Path:
    """Write one HTML page on one or several runs; it needs neither a network nor another file.

    The function works while a run writes. The page then names the missing parts.

    Example:
        >>> write_report("runs/quickstart-1f3a9c02", "report.html")     # doctest: +SKIP

    Args:
        paths: Run directories, study directories, or storages that contain them.
        out: The page. An existing file is replaced atomically.
        growth: File that `python -m benchmarks.growth` wrote, to draw how cost grows; None leaves it out.

    Returns:
        `out`.

    Raises:
        UserError: As `load_tables` and `read_growth`; the page cannot be written; or there are too many
            runs for a page of LIMIT bytes.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    tables = load_tables(*paths)
    points = read_growth(growth) if growth is not None else []
    studies = [build_study(study) for study in tables.studies]

    # Thousands of evaluations make a page too large, so it draws fewer points until it fits.
    size = 0
    for detail in DETAILS:
        page = render_page(tables, detail, points, studies)
        size = len(page.encode())
        if size <= LIMIT:
            return write_text(Path(out), page)
    raise UserError(
        f"The page of {plural(len(tables.runs), 'run')} has {size / 1e6:.1f} MB. At most "
        f"{LIMIT / 1e6:.0f} MB are allowed. Name fewer runs."
    )


def render_page(
    tables: RunTables,
    detail: float = 1.0,
    points: Sequence[GrowthPoint] = (),
    studies: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Return the page as text.

    Args:
        tables: Tables of all runs.
        detail: Share of all points that the page draws. With 0 it leaves out curves, distributions and
            settings of single runs, and says so.
        points: Measurements of how cost grows; without any, the page omits this section.
        studies: What `build_study` returns for each study; None builds it.
    """
    if studies is None:
        studies = [build_study(study) for study in tables.studies]
    style = _render_part("style.css.j2")
    script = _render_part("page.js.j2")
    plotly = _read_plotly()
    plots = PlacedPlots()

    run_share = min(1.0, FULL_RUNS / max(1, len(tables.runs)))
    curve = round(CURVE * detail * run_share)
    moments = round(MOMENTS * detail * run_share)
    # A page without any detail still has the Pareto plot, with the smallest share of its points.
    num_points = round(POINTS * (detail or DETAILS[-2]))

    groups = [
        build_group(part, metric, num_points, plots) for metric, part in group_comparable_runs(tables)
    ]
    detailed_runs = tables.runs if detail else ()
    runs = [build_run(tables.of(run.name), run, curve, moments, plots) for run in detailed_runs]

    template = _template_environment().get_template("report.html.j2")
    return template.render(
        title=_build_title(tables),
        names=[run.name for run in tables.runs],
        studies=studies,
        left_out=len(tables.runs) - len(runs),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        groups=groups,
        runs=runs,
        growth=[plots.add(plot) for plot in draw_growth_plots(list(points))],
        differing=find_differences(tables.runs),
        here=describe_environment(),
        policy=f"script-src '{_digest_script(plotly)}' '{_digest_script(script)}'",
        # These three files are part of raycomp and plotly. They contain no data of a run.
        style=Markup(style),  # nosec B704
        script=Markup(script),  # nosec B704
        plotly=Markup(plotly),  # nosec B704
    )


def _build_title(tables: RunTables) -> str:
    """Return the name of the only run or study, or the number of both."""
    study_paths = [study.path for study in tables.studies]
    num_inside = sum(run.path.parent.parent in study_paths for run in tables.runs)
    if len(tables.studies) == 1 and num_inside == len(tables.runs):
        return tables.studies[0].id
    if len(tables.runs) == 1 and not tables.studies:
        return tables.runs[0].name

    parts = []
    if tables.studies:
        parts.append("1 study" if len(tables.studies) == 1 else f"{len(tables.studies)} studies")
    if tables.runs or not tables.studies:
        parts.append(plural(len(tables.runs), "run"))
    return ", ".join(parts)


@functools.cache
def _template_environment() -> jinja2.Environment:
    """Return jinja2's environment: text is escaped, and an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raycomp.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["format_score"] = format_score
    return environment


def _render_part(name: str) -> str:
    """Return the page's style or script, which contain no data."""
    return _template_environment().get_template(name).render().strip()


@functools.cache
def _read_plotly() -> str:
    """Return plotly's script as a page may contain it.

    The digest of the policy covers the line ends that a browser reads, and "</script" would end the
    element.
    """
    text: str = get_plotlyjs()
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").strip()


def _digest_script(script: str) -> str:
    """Return the digest by which the page's security policy allows exactly this script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""What the command line prints of a run: its models, its costs and its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raycomp.cli.output import MAX_CELL, list_rows, print_grid, print_json, print_line, print_paths
from raycomp.errors import shown

if TYPE_CHECKING:
    from raycomp.report.loading import RunTables

WIDE = 150  # characters of a terminal that has room for every column of the summary
# Columns that a narrower terminal leaves out: they follow from columns that it shows.
DERIVED_COLUMNS = ("cost", "params_ratio", "gap")


def print_run(run_dir: Path, as_json: bool) -> None:
    """Print a finished run: its teacher, a row for each deployed model, and the paths of its files.

    Raises:
        UserError: The directory does not contain a run, or one of its files is damaged.
    """
    from raycomp.report.cost_table import build_cost_table
    from raycomp.report.loading import load_tables
    from raycomp.report.runtime_table import build_runtime_table
    from raycomp.report.summary_table import TEXT_COLUMNS, build_summary_table

    tables = load_tables(run_dir)
    (run,) = tables.runs
    if as_json:
        print_json(_describe_run(run_dir, tables))
        return

    summary = build_summary_table(tables)
    # A line of all columns is too long for most terminals.
    columns = summary.columns
    if Console().width < WIDE:
        columns = tuple(name for name in columns if name not in DERIVED_COLUMNS)

    print(f"{run.name}: {run.task}, {run.metric}")
    rows = [summary.cells(row, columns) for row in summary.rows]
    print_grid(columns, rows, len(TEXT_COLUMNS))
    for note in summary.notes:
        print_line("Note", note)
    for warning in summary.warnings:
        print_line("Warning", warning)
    # A warning that was printed hours ago, before the first step, belongs to the scores too.
    for warning in run.overview.warnings if run.overview is not None else ():
        print_line("Warning", shown(warning, MAX_CELL))
    for method, search in run.searches.items():
        # Only methods with a super-network search it for their budgets.
        if "most_expensive" in search:
            num_budgets = int((tables.deployments["method"] == method).sum())
            print_line("Search", f"{method}: {_describe_search(search, num_budgets)}")
        if "heal" in search:
            print_line("Healing", f"{method}: {_describe_healing(search['heal'])}")
    for table in (build_cost_table(tables.costs), build_runtime_table(tables.runtimes)):
        if table is not None:
            print(table.title)
            print_grid(table.columns, table.rows, table.named)
    print_paths(run_dir, ("tables", "exports", "report.html"))


def _describe_run(run_dir: Path, tables: RunTables) -> dict[str, Any]:
    """Return a run as values that `print_json` prints."""
    from raycomp.report.weak_teacher import find_teacher_warnings

    (run,) = tables.runs
    return {
        "run": str(run_dir),
        "deployments": list_rows(tables.deployments),
        **run.searches,
        "teacher": run.teacher,
        "teacher_warnings": find_teacher_warnings(tables, run),
        "overview": run.overview.to_json() if run.overview is not None else None,
        "costs": list_rows(tables.costs),
        "runtimes": list_rows(tables.runtimes),
    }


def _describe_search(search: dict[str, Any], num_budgets: int) -> str:
    """Return a sentence on how many evaluations a method's search needed.

    Args:
        search: Summary of a method's search, as in its file deployed.json.
        num_budgets: Number of budgets that the method was searched for.
    """
    from raycomp.report.formatting import plural

    # A job can search each budget with several searchers or seeds. Each of those searches is a trial.
    unit = "budget"
    if search.get("trials", num_budgets) != num_budgets:
        unit = "trial"
    return (
        f"{search['evaluations']} evaluations for {plural(num_budgets, 'budget')} (most expensive "
        f"{unit}: {search['most_expensive']}). The super-network was trained once."
    )


def _describe_healing(healing: dict[str, Any]) -> str:
    """Return a sentence on the cost of healing."""
    from raycomp.report.formatting import format_count, plural

    steps = f"{healing['steps']:,}"
    # Runs from before the rounds have one number.
    if (least := healing.get("least_steps", healing["steps"])) < healing["steps"]:
        steps = f"{least:,} to {steps}"
    return (
        f"{plural(healing['networks'], 'network')}, {steps} steps each, "
        f"{format_count(healing['tokens'])} tokens in all, {healing['seconds']:,.0f} s."
    )

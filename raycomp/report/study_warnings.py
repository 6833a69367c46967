"""The warnings of a study's runs: about their data, and about weak teachers."""

from __future__ import annotations

from pathlib import Path

from raycomp.report.formatting import plural
from raycomp.report.loading import load_tables
from raycomp.report.weak_teacher import find_teacher_warnings
from raycomp.storage.study_layout import StudyLayout, find_runs


def list_study_warnings(study_dir: Path) -> list[str]:
    """Return each warning once, with the run that has it, or the first of several.

    Args:
        study_dir: Directory of a study.

    Raises:
        UserError: A file of a run is damaged.
    """
    runs_by_warning: dict[str, list[str]] = {}
    # One run at a time: the tables of all runs together can be large.
    for run_dir in find_runs(StudyLayout(study_dir).runs):
        tables = load_tables(run_dir)
        (run,) = tables.runs
        warnings = list(run.overview.warnings) if run.overview is not None else []
        for warning in (*warnings, *find_teacher_warnings(tables, run)):
            runs_by_warning.setdefault(warning, []).append(run.name)

    return [f"{_name_runs(names)}: {warning}" for warning, names in runs_by_warning.items()]


def _name_runs(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{names[0]} and {plural(len(names) - 1, 'other run')}"

"""The warnings of a run whose teacher is weak, as soon as the teacher is scored."""

from __future__ import annotations

from pathlib import Path

from raycomp.report.loading import load_tables
from raycomp.report.weak_teacher import find_teacher_warnings


def list_teacher_warnings(run_dir: Path) -> list[str]:
    """Return sentences on the teacher of a run that has not deployed a model yet.

    Args:
        run_dir: The run directory, with the rows of the teacher's steps and its scores.
    """
    tables = load_tables(run_dir)
    (run,) = tables.runs
    return find_teacher_warnings(tables, run)

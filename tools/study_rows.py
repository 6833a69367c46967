"""Rows of finished study runs as files of docs/results, which outlive the study directory.

- NAME.csv: `ablation_table`, all digits.
- NAME-runs.csv: table `ablations`, from which the tables of costs and the panels of costs come.
- NAME-studies.csv: heading and command of each study that made a row. Column `study_id` of the other two
  files names it.

A page is written from a study directory and these files. Rows of a variant and task that the directory
lacks stay. Those of another study (other settings of at least one variant) have its number after the
task's name, such as "glue/mrpc (99a05bb2)": they are compared with the variants of that study only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from raycomp.errors import UserError
from raycomp.report import ablation_table
from raycomp.report.ablation import COLUMNS
from raycomp.report.study_results import StudyResults

STUDY_ID = "study_id"
TEXTS = ("basis", "test", "verdict")
"""Columns of `ablation_table` in which an empty text is a value."""

Pairs = set[tuple[str, str]]
"""Pairs of a task and a variant."""


@dataclass(frozen=True)
class StudyRows:
    """Rows of all studies of a page.

    Attributes:
        scores: Rows of `ablation_table`.
        runs: Rows of table `ablations`.
        studies: Columns `study_id`, `heading` and `command`, the newest study last.
    """

    scores: pd.DataFrame
    runs: pd.DataFrame
    studies: pd.DataFrame

    def write(self, page: Path) -> None:
        """Write the three files next to a page."""
        for path, table in zip(_paths(page), (self.scores, self.runs, self.studies), strict=True):
            table.to_csv(path, index=False)


def merge_rows(study: StudyResults, heading: str, command: str, page: Path) -> StudyRows:
    """Return the rows of a study directory, and those of the page's files that the directory lacks.

    Args:
        study: The study directory.
        heading: The study in one line.
        command: The command that executes it.
        page: The page, which may not exist yet.

    Raises:
        UserError: A file of the page has rows that would be lost.
    """
    scores = ablation_table(study).assign(**{STUDY_ID: study.id})
    runs = study.frame.assign(**{STUDY_ID: study.id})
    line = pd.DataFrame([{STUDY_ID: study.id, "heading": heading, "command": command}])
    earlier = _read_rows(page)
    if earlier is None:
        return StudyRows(scores, runs, line)

    finished = _pairs(runs)
    # A run's rows repeat its teacher, which has a row of its own in the table of scores.
    kept_runs = _without(earlier.runs, finished)
    kept_scores = _without(earlier.scores, finished | _pairs(scores))
    if STUDY_ID not in kept_scores and len(kept_scores):
        lost = sorted({f"{variant} ({task})" for task, variant in _pairs(kept_scores)})
        raise UserError(
            f"{page.with_suffix('.csv')} has rows that {study.path} lacks: {', '.join(lost)}. It does "
            f"not say which study made them. Add a column {STUDY_ID} to it, or delete it to drop them."
        )

    named = set(kept_scores.get(STUDY_ID, ())) | set(kept_runs.get(STUDY_ID, ()))
    kept_studies = earlier.studies[earlier.studies[STUDY_ID].isin(named - {study.id})]
    return StudyRows(_concat(kept_scores, scores), _concat(kept_runs, runs), _concat(kept_studies, line))


def apply_rows(study: StudyResults, rows: StudyRows) -> StudyResults:
    """Return a study with the rows of all studies of its page; tasks of other ones have their number."""
    scores = _label_tasks(rows.scores, study.id)
    runs = _label_tasks(rows.runs, study.id)
    tasks = [*study.tasks, *scores["task"], *runs["task"]]
    merged = replace(study, frame=runs, tasks=tuple(dict.fromkeys(tasks)))

    # Predictions behind the rows of earlier studies may be lost. Their intervals are computed already.
    order = {task: number for number, task in enumerate(merged.tasks)}
    scores = scores.sort_values("task", key=lambda names: names.map(order), kind="stable")
    merged.ablation_tables[0] = scores[list(COLUMNS)].reset_index(drop=True)
    return merged


def _paths(page: Path) -> tuple[Path, Path, Path]:
    return (
        page.with_suffix(".csv"),
        page.with_name(f"{page.stem}-runs.csv"),
        page.with_name(f"{page.stem}-studies.csv"),
    )


def _read_rows(page: Path) -> StudyRows | None:
    """Return the rows of a page's files; None before the first page was written."""
    scores, runs, studies = _paths(page)
    if not scores.exists():
        return None
    table = pd.read_csv(scores)
    table[list(TEXTS)] = table[list(TEXTS)].fillna("")
    return StudyRows(
        table,
        pd.read_csv(runs) if runs.exists() else pd.DataFrame(columns=["task", "variant", STUDY_ID]),
        pd.read_csv(studies) if studies.exists() else pd.DataFrame(columns=[STUDY_ID]),
    )


def _pairs(table: pd.DataFrame) -> Pairs:
    return set(zip(table["task"].astype(str), table["variant"].astype(str), strict=True))


def _without(table: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """Return the rows of a table whose task and variant are not among some pairs."""
    keys = zip(table["task"].astype(str), table["variant"].astype(str), strict=True)
    return table[[key not in pairs for key in keys]]


def _concat(earlier: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of two tables, with the columns of the second one."""
    if earlier.empty:
        return table
    rows = pd.concat([earlier.astype(object), table.astype(object)], ignore_index=True)
    rows = rows[list(table.columns)].infer_objects()
    for name, kind in table.dtypes.items():
        if pd.api.types.is_numeric_dtype(kind):
            rows[name] = pd.to_numeric(rows[name])
    return rows


def _label_tasks(table: pd.DataFrame, study_id: str) -> pd.DataFrame:
    """Return a table in which tasks of other studies have the number of their study."""
    names = [
        task if row_id == study_id else f"{task} ({row_id.rpartition('-')[2]})"
        for task, row_id in zip(table["task"], table[STUDY_ID], strict=True)
    ]
    return table.assign(task=names)

"""The results of a study: its grid of runs and the table `ablations` that its runs wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.errors import UserError
from raycomp.report.ablation_forms import with_explicit_columns
from raycomp.storage.location import fetched, is_figure
from raycomp.storage.study_layout import StudyLayout
from raycomp.storage.tables import read_table

MANY_METHODS = 3
"""Methods from which a study compares methods, not settings of one."""


@dataclass(frozen=True)
class StudyResults:
    """A study directory.

    Attributes:
        id: Name of the directory.
        path: The directory.
        name: Name of the study, from its study file.
        paper: Table of a paper that the study repeats, or an empty text.
        preset: Preset that the study was run with, or an empty text.
        row_kind: What the rows of the paper's table are: "variant" or "task".
        variants, tasks, seeds: The grid, in order.
        num_runs: Number of runs of the grid.
        compares_searchers: Whether the variants search for the same budgets in different ways; only then
            is their progress over evaluations compared.
        teacher_started: Variants that fine-tune each network from the teacher's weights, without the
            super-network.
        frame: The table `ablations`.
        lengths: "equal_compute" or "equal_epochs" with its value, where all runs have the same; else
            empty.
        ablation_tables: `raycomp.report.ablation_table` by seed of its draws, once it was built.
    """

    id: str
    path: Path
    name: str
    paper: str
    preset: str
    row_kind: str
    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    num_runs: int
    compares_searchers: bool
    teacher_started: frozenset[str]
    frame: pd.DataFrame
    lengths: str = ""
    ablation_tables: dict[int, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    @property
    def compares_methods(self) -> bool:
        """Whether the variants are different compression methods."""
        scores = self.frame[(self.frame["kind"] == "score") & (self.frame["method"] != "teacher")]
        return bool(scores["method"].nunique() >= MANY_METHODS)

    @property
    def num_finished(self) -> int:
        """Number of runs that have written their rows."""
        return len(self.frame[["variant", "task", "seed"]].drop_duplicates())

    def run_dir(self, name: str) -> Path:
        """Return the directory of one of the study's runs."""
        return StudyLayout(self.path).runs / name


def as_study_results(study: str | Path | StudyResults) -> StudyResults:
    """Return a study as it is, or load it from its directory."""
    if isinstance(study, StudyResults):
        return study
    return load_study_results(study)


def is_study_dir(path: str | Path) -> bool:
    """Return whether a directory contains a study."""
    return StudyLayout(Path(path)).study.exists()


def load_study_results(path: str | Path) -> StudyResults:
    """Load a study directory; works while the study runs.

    Args:
        path: The directory, or its URL.

    Raises:
        UserError: The directory does not contain a study, or one of its files is damaged.
    """
    path = fetched(path, is_figure)
    file = StudyLayout(path).study
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        settings = data["study"]
        # Studies of earlier versions call them cells.
        runs = data["runs"] if "runs" in data else data["cells"]
        return StudyResults(
            id=path.resolve().name,
            path=path,
            name=settings["name"],
            paper=settings["paper"],
            preset=data["preset"],
            row_kind=settings["rows"],
            variants=tuple(variant["name"] for variant in settings["variant"]),
            tasks=tuple(dict.fromkeys(str(run["task"]) for run in runs)),
            seeds=tuple(settings["seeds"]),
            num_runs=len(runs),
            compares_searchers=_compares_searchers([run["job"] for run in runs]),
            teacher_started=frozenset(
                run["variant"] for run in runs if run["job"]["finetune"]["start"] == "teacher"
            ),
            frame=with_explicit_columns(read_table(path, "ablations")),
            lengths=_describe_lengths([run["job"] for run in runs]),
        )
    except FileNotFoundError:
        raise UserError(
            f"Directory {path} does not contain a study. Name a directory that `raycomp run STUDY.toml` "
            "wrote."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"File {file} cannot be read ({error}). Run the study again.") from None


def _describe_lengths(jobs: list[dict[str, Any]]) -> str:
    """Return the mode of equal lengths that all jobs have, as a setting."""
    for key in ("equal_compute", "equal_epochs"):
        values = {job.get("run", {}).get(key) for job in jobs}
        if len(values) == 1 and None not in values:
            return f"run.{key}={values.pop():g}"
    return ""


def _compares_searchers(jobs: list[dict[str, Any]]) -> bool:
    """Return whether jobs differ in their section `search` but not in their budgets."""

    def count_values(section: str) -> int:
        return len({json.dumps(job[section], sort_keys=True) for job in jobs})

    return count_values("search") > 1 and count_values("budget") == 1

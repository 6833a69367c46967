"""Tables of runs and studies as pandas frames; works while a run writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from raycomp.errors import UserError
from raycomp.report.run_record import RunRecord, read_run_record
from raycomp.report.study_results import StudyResults, is_study_dir, load_study_results
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.location import fetched, is_figure
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.study_layout import StudyLayout, find_runs, find_studies
from raycomp.storage.tables import read_parts

NAMES = ("steps", "distribution", "evaluations", "deployments", "costs", "runtimes")
MAX_HINTS = 5  # run directories that a message names


def _empty_table(name: str) -> pd.DataFrame:
    return SCHEMAS[name].empty_table().to_pandas()


@dataclass(frozen=True)
class RunTables:
    """Tables of one or several runs.

    The columns are those of `raycomp.storage.schemas.SCHEMAS`.

    Example:
        >>> tables = load_tables("runs")                            # doctest: +SKIP
        >>> tables.deployments.sort_values("latency_ms")            # doctest: +SKIP

    Attributes:
        steps: One row for each training step.
        distribution: The architecture distribution over time. A further column, `training`, has the name
            of the training task, such as "supernet" or "adabert-search.TRIAL".
        evaluations: One row for each scored architecture.
        deployments: One row for each deployed model.
        runs: Settings and teacher scores of each run, in the order of the arguments.
        ablations: One row for each figure of a study run.
        studies: The studies, in the order of the arguments.
        costs: One row for each part of a method's work.
        runtimes: One row for each file of a runtime that was timed in turns with those of the teacher.
    """

    steps: pd.DataFrame
    distribution: pd.DataFrame
    evaluations: pd.DataFrame
    deployments: pd.DataFrame
    runs: tuple[RunRecord, ...]
    ablations: pd.DataFrame = field(default_factory=lambda: _empty_table("ablations"))
    studies: tuple[StudyResults, ...] = ()
    costs: pd.DataFrame = field(default_factory=lambda: _empty_table("costs"))
    runtimes: pd.DataFrame = field(default_factory=lambda: _empty_table("runtimes"))

    def of(self, *names: str) -> RunTables:
        """Return the rows and records of some runs."""

        def select_rows(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["run"].isin(names)]

        return RunTables(
            select_rows(self.steps),
            select_rows(self.distribution),
            select_rows(self.evaluations),
            select_rows(self.deployments),
            tuple(run for run in self.runs if run.name in names),
            select_rows(self.ablations),
            costs=select_rows(self.costs),
            runtimes=select_rows(self.runtimes),
        )


def load_tables(*paths: str | Path) -> RunTables:
    """Load the tables of runs and studies; a table that a run has not written yet is empty.

    Args:
        paths: Directories or URLs (s3://bucket/runs). Each is a run directory, a study directory, or a
            storage that contains runs and studies. A study directory gives all its runs. A storage gives
            its runs, and of its studies only the table `ablations`. A run that appears twice is read
            once.

    Raises:
        UserError: A directory is missing or does not contain a run; two runs have the same name; or a
            file is damaged.
    """
    if not paths:
        raise UserError("Name at least one run directory, or a storage directory that contains runs.")

    folders = [fetched(path, is_figure) for path in paths]
    # Dictionaries keep the order of the arguments and drop repetitions.
    study_dirs = dict.fromkeys(study.resolve() for path in folders for study in _list_study_dirs(path))
    run_dirs = dict.fromkeys(run.resolve() for path in folders for run in _list_run_dirs(path))
    _check_names(list(run_dirs))

    studies = tuple(load_study_results(study_dir) for study_dir in study_dirs)
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in NAMES}
    runs = []
    for run_dir in run_dirs:
        tables = {name: _read_frame(run_dir, name) for name in NAMES}
        # YOCO's deployments come before AdaBERT's.
        tables["deployments"] = tables["deployments"].sort_values(
            "method", ascending=False, kind="stable"
        )
        runs.append(read_run_record(run_dir, tables["evaluations"], tables["deployments"]))
        for name, frame in tables.items():
            frames[name].append(frame)

    return RunTables(
        steps=_concatenate(frames["steps"], "steps"),
        distribution=_concatenate(frames["distribution"], "distribution"),
        evaluations=_concatenate(frames["evaluations"], "evaluations"),
        deployments=_concatenate(frames["deployments"], "deployments"),
        runs=tuple(runs),
        ablations=_concatenate([study.frame for study in studies], "ablations"),
        studies=studies,
        costs=_concatenate(frames["costs"], "costs"),
        runtimes=_concatenate(frames["runtimes"], "runtimes"),
    )


def _list_study_dirs(path: Path) -> list[Path]:
    """Return the study directories at or below a directory."""
    if is_study_dir(path):
        return [path]
    return find_studies(path)


def _list_run_dirs(path: Path) -> list[Path]:
    """Return the run directories at or below a directory.

    Raises:
        UserError: The directory is missing, or it does not contain a run or a study.
    """
    if not path.is_dir():
        siblings = [run_dir.name for run_dir in find_runs(path.parent)]
        hint = ""
        if siblings:
            hint = f" {path.parent} contains: {', '.join(siblings[:MAX_HINTS])}."
        raise UserError(f"Directory {path} does not exist.{hint} Name a run directory: runs/NAME-HASH.")

    if RunLayout(path).job.exists():
        check_job_file(path)
        return [path]
    if is_study_dir(path):
        return find_runs(StudyLayout(path).runs)

    run_dirs = find_runs(path)
    if not run_dirs and not _list_study_dirs(path):
        raise UserError(
            f"Directory {path} is not a run directory and does not contain one (a run directory has a "
            "file job.json). Name a run directory such as runs/NAME-HASH, or start the run again to "
            "complete it."
        )
    return run_dirs


def check_job_file(run_dir: Path) -> None:
    """Refuse a job.json that is not the job of a run: other tools write files of this name too.

    Raises:
        UserError: The file is damaged or another tool's.
    """
    path = RunLayout(run_dir).job
    try:
        job = read_json(path)
    except UserError as error:
        raise UserError(f"{run_dir} is not a run directory: {error}") from None

    if not {"run", "task"} <= job.keys():
        raise UserError(
            f"{run_dir} is not a run directory: {path} is not a job of raycomp. Name a directory that "
            "`raycomp run` wrote."
        )


def _check_names(run_dirs: list[Path]) -> None:
    """Refuse two runs of one name: rows of tables know their run by its name only."""
    by_name: dict[str, Path] = {}
    for run_dir in run_dirs:
        twin = by_name.setdefault(run_dir.name, run_dir)
        if twin != run_dir:
            raise UserError(
                f"Runs {twin} and {run_dir} have the same name. Name only one of them, or rename a "
                "directory."
            )


def _read_frame(run_dir: Path, name: str) -> pd.DataFrame:
    """Read one table of a run.

    Rows of `distribution` get a column with the training task, which their file is named after.
    """
    parts = read_parts(run_dir, name)
    if not parts:
        parts = [(run_dir / "none-0", SCHEMAS[name].empty_table())]
    if name == "distribution":
        tables = [rows.append_column("training", _training_column(path, rows)) for path, rows in parts]
    else:
        tables = [rows for _, rows in parts]
    return pa.concat_tables(tables).to_pandas().assign(run=run_dir.name)


def _training_column(path: Path, rows: pa.Table) -> pa.Array:
    """Return the name of a file without its number, such as "supernet" for supernet-000000100."""
    return pa.array([path.stem.rpartition("-")[0]] * len(rows), pa.string())


def _concatenate(frames: list[pd.DataFrame], name: str) -> pd.DataFrame:
    """Join the rows of several runs.

    A frame without rows is left out, because it would change the types of the columns.
    """
    filled = [frame for frame in frames if len(frame)]
    if filled:
        return pd.concat(filled, ignore_index=True)
    return frames[0] if frames else _empty_table(name)

"""One study run: an ordinary run whose figures become rows of table `ablations`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raycomp.config.job import Job
from raycomp.config.loader import parse_stored
from raycomp.config.study import StudyRun
from raycomp.config.study_settings import StudySettings
from raycomp.errors import UserError
from raycomp.methods.adabert.trials import list_trials
from raycomp.runtime.pipeline.artifact_reuse import reuse_artifacts
from raycomp.runtime.pipeline.run import run_job
from raycomp.runtime.studies.ablation_rows import ablation_rows
from raycomp.runtime.studies.stage_timer import StageTimer
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.study_layout import StudyLayout
from raycomp.storage.tables import read_table, write_rows


def execute_study_run(folder: Path, settings: StudySettings, study_run: StudyRun) -> None:
    """Run one job of a study and write its rows into the study's directory.

    A run with `structure_of` trains the structure that the first variant found on that task. If the
    searching run has already trained this structure with equal settings, its rows are copied instead.

    Args:
        folder: Directory of the study.
        settings: Section [study] of the study.
        study_run: Run to execute; an interrupted run resumes.

    Raises:
        UserError: The job cannot be run (see `run_job`), or the search for its structure has not
            finished.
    """
    runs = StudyLayout(folder).runs
    searching_run = None
    if study_run.structure_of is not None:
        searching_run = _find_searching_run(folder, settings, study_run)
        study_run = study_run.with_structure(_found_structure(searching_run))

    equal_job = None
    if searching_run is not None:
        equal_job = find_equal_job(searching_run, study_run)

    if searching_run is not None and equal_job is not None:
        rows = ablation_rows(searching_run, settings, replace(study_run, job=equal_job))
        # The search was paid for by the first variant.
        rows = [row for row in rows if row["kind"] != "cost"]
    else:
        run_dir = runs / study_run.job.run_id
        reuse_artifacts(study_run.artifact_keys, run_dir)
        run_job(study_run.job, runs, StageTimer(run_dir))
        rows = ablation_rows(run_dir, settings, study_run)

    write_rows(folder, "ablations", rows, study_run.name)


def _find_searching_run(folder: Path, settings: StudySettings, study_run: StudyRun) -> Path:
    """Return the directory of the run that searched the structure for `study_run`."""
    task = study_run.structure_of
    rows = read_table(folder, "ablations")
    is_searching_run = (
        (rows["variant"] == settings.variant[0].name)
        & (rows["task"] == task)
        & (rows["seed"] == study_run.seed)
    )
    rows = rows[is_searching_run]

    if rows.empty:
        raise UserError(
            f"{study_run.name} needs the structure found on {task}, but that search has not finished. "
            "Run the study again."
        )
    return StudyLayout(folder).runs / str(rows["run"].iloc[0])


def _found_structure(searching_run: Path) -> str:
    """Return the structure (JSON) that a run deployed first."""
    deployments = read_table(searching_run, "deployments")
    return str(deployments[deployments["method"] == "adabert"]["arch"].iloc[0])


def find_equal_job(searching_run: Path, study_run: StudyRun) -> Job | None:
    """Return the job of the searching run if it has already trained what `study_run` would train.

    The searching run trains the structure that it found from scratch. On the same task, every other
    setting is equal too, and training it a second time gives the same figures.

    Returns:
        The searching run's job; None if settings differ, if `study_run` is `fresh` (its cost is
        measured), or if the job has several structures, of which `study_run` takes only the first.
    """
    if study_run.fresh or len(list_trials(study_run.job)) > 1:
        return None

    job = parse_stored(read_json(RunLayout(searching_run).job))
    if _settings_without_structure(job) == _settings_without_structure(study_run.job):
        return job
    return None


def _settings_without_structure(job: Job) -> dict[str, object]:
    """Return the settings of a job except for its name and AdaBERT's structure."""
    settings = job.model_dump(mode="json")
    del settings["run"]["name"]
    del settings["adabert"]["structure"]
    return settings

"""Runs a study: a grid of study runs, each an ordinary run in a process of its own.

A study run is finished when its rows are in the study's table `ablations`. No state of Ray Tune is read
back. An interrupted study executes the missing runs, and each of them resumes from its last checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raycomp.config.study import StudyRun, StudySpec
from raycomp.data.overview import TITLE, format_overview
from raycomp.data.tasks import Task
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.facts import Facts
from raycomp.runtime.cluster import connect as cluster
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.progress import Progress, Update, polling
from raycomp.runtime.pipeline.overview import preview
from raycomp.runtime.pipeline.preflight import check
from raycomp.runtime.pipeline.run import lock_run
from raycomp.runtime.studies.batches import plan_batches
from raycomp.runtime.studies.grid import run_batch
from raycomp.runtime.studies.stage_timer import read_current_stage
from raycomp.storage.files import write_json
from raycomp.storage.study_layout import StudyLayout, find_runs
from raycomp.storage.tables import part_files

# Number of running study runs that the progress line names.
NUM_SHOWN = 2


def run_study(study: StudySpec, storage: Path, progress: Progress) -> Path:
    """Execute the chosen runs of a study that are not finished; return the study's directory.

    Args:
        study: Checked study.
        storage: Directory that contains the directory of the study.
        progress: Display for the number of finished runs.

    Raises:
        UserError: A job has an error that is found before anything runs, or some runs failed. In the
            second case the rows of the other runs are written, and the same call executes the rest.
    """
    folder = storage.resolve() / study.id
    # Before the checks, which can fill the cache of tokens there.
    is_resumed = folder.exists()
    finished = finished_runs(folder)
    missing = [study_run for study_run in study.chosen_runs if study_run.name not in finished]
    _check_jobs(missing, folder, progress)

    with lock_run(folder, progress):
        if is_resumed:
            num_runs = len(study.runs)
            progress.say(f"Resuming {study.id}: {len(finished)} of {num_runs} runs finished")
        write_json(StudyLayout(folder).study, describe_study(study))

        if missing:
            started_ray = cluster.connect()
            try:
                with progress.bar("study") as bar:
                    _execute(study, missing, folder, bar)
            finally:
                if started_ray:
                    ray.shutdown()
    return folder


def finished_runs(folder: Path) -> set[str]:
    """Return the names of the study runs whose rows are written."""
    return {path.stem for path in part_files(folder, "ablations")}


def describe_study(study: StudySpec) -> dict[str, Any]:
    """Return the content of `study.json`: the study's settings, and each run with its job."""
    runs = [
        {
            "name": study_run.name,
            "variant": study_run.variant,
            "task": study_run.task,
            "seed": study_run.seed,
            "structure_of": study_run.structure_of,
            "fresh": study_run.fresh,
            "job": study_run.job.model_dump(mode="json"),
        }
        for study_run in study.runs
    ]
    return {
        "id": study.id,
        "preset": study.preset,
        "study": study.settings.model_dump(mode="json"),
        "runs": runs,
    }


def _check_jobs(study_runs: list[StudyRun], folder: Path, progress: Progress) -> None:
    """Run the preflight checks of every variant and task, and describe their data and teachers.

    Runs that differ only in the seed pass or fail together, so one of them is checked. Variants with
    the same task and model share one loaded task, and one block of the overview.

    Args:
        study_runs: The runs to check.
        folder: Directory of the study.
        progress: Prints the blocks.

    Raises:
        UserError: Some checks failed; the message has a line for each, with its variant and task.
    """
    loaded: dict[str, tuple[Facts, Task]] = {}
    checked: set[tuple[str, str]] = set()
    errors: list[str] = []

    for study_run in study_runs:
        variant_and_task = (study_run.variant, study_run.task)
        if variant_and_task in checked:
            continue
        checked.add(variant_and_task)

        job = study_run.job
        context = RunContext(job, StudyLayout(folder).runs / job.run_id)
        # The facts say whether the model's own classifier is used, which depends on the mode.
        parts = [job.task.model_dump(), job.model.model_dump(), job.teacher.mode]
        task_and_model = json.dumps(parts)
        is_known = task_and_model in loaded
        if is_known:
            context.facts, context.task = loaded[task_and_model]

        try:
            check(context, score_teacher=not is_known)
            if not is_known:
                title = f"{TITLE}: {study_run.variant}, {study_run.task}"
                progress.block(title, format_overview(preview(context)))
            loaded[task_and_model] = (context.facts, context.task)
        except UserError as error:
            prefix = f"variant {study_run.variant}, {study_run.task}"
            errors += [f"{prefix}: {line}" for line in str(error).splitlines()]

    if errors:
        raise UserError("\n".join(errors))


def _execute(study: StudySpec, missing: list[StudyRun], folder: Path, bar: Update) -> None:
    """Execute study runs batch by batch, and show how many are finished.

    Raises:
        UserError: Some runs failed; the message has the error of the first one.
    """
    names = {study_run.name for study_run in missing}

    def show_progress() -> None:
        num_finished = len(names & finished_runs(folder))
        bar(num_finished, len(missing), {"phase": _describe_running(folder)})

    errors: dict[str, str] = {}
    with polling(show_progress):
        for batch in plan_batches(missing, study.settings, finished_runs(folder)):
            errors |= run_batch(study.settings, batch, folder)

    if errors:
        name, reason = next(iter(errors.items()))
        raise UserError(
            f"{len(errors)} of {len(missing)} runs of the study failed. {name}: {reason}\n"
            "The other runs are finished. Run the same command again to execute the missing runs."
        )


def _describe_running(folder: Path) -> str:
    """Return "RUN: STAGE" of the first runs of the study that are running now."""
    running = []
    for run_dir in find_runs(StudyLayout(folder).runs):
        stage = read_current_stage(run_dir)
        if stage:
            running.append(f"{run_dir.name}: {stage}")
    return ", ".join(running[:NUM_SHOWN])

"""Executes a batch of study runs as a grid of Ray Tune trials."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import RunConfig, TuneConfig, Tuner

from raycomp.config.loader import parse_job
from raycomp.config.study import StudyRun, StudySettings
from raycomp.errors import UserError
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import is_visible_to_all_nodes
from raycomp.runtime.cluster.placement import schedule_outside_trial

# Folder of Ray Tune in the study's folder.
TUNE_FOLDER = "tune"


def run_batch(settings: StudySettings, batch: list[StudyRun], folder: Path) -> dict[str, str]:
    """Execute study runs at the same time, as many as the cluster has room for.

    Args:
        settings: Section [study] of the study.
        batch: Runs that do not depend on each other.
        folder: Folder of the study.

    Returns:
        Name of each failed run -> reason.

    Raises:
        KeyboardInterrupt: The user interrupted the study.
    """
    payloads = {study_run.name: _to_payload(study_run) for study_run in batch}
    settings_payload = settings.model_dump(mode="json")
    train = batch[0].job.train
    worker_slots = count_worker_slots(train.cpus or share_cpus(1), train.gpus)
    num_concurrent = max(1, worker_slots // train.workers)
    threads = threads_per_run(min(num_concurrent, len(batch)))
    placement = schedule_outside_trial(is_visible_to_all_nodes(folder))

    def execute_trial(config: dict[str, Any]) -> dict[str, Any]:
        # A run starts Ray Train and Ray Tune itself, so it gets a process of its own outside of the
        # trial's placement group. `max_calls=1` ends the process and frees its memory.
        task = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=placement)(
            _execute_in_process
        )
        name = config["name"]
        reason = ray.get(task.remote(str(folder), settings_payload, payloads[name], threads))
        return {"name": name, "reason": reason}

    tuner = Tuner(
        # The trial only waits. Ray Tune requires some resource; with a share of a CPU the trial would
        # occupy a whole one that the workers need, so it asks for one byte of memory.
        tune.with_resources(execute_trial, {"cpu": 0, "memory": 1}),
        param_space={"name": tune.grid_search(list(payloads))},
        tune_config=TuneConfig(max_concurrent_trials=num_concurrent, reuse_actors=True),
        run_config=RunConfig(name="study", storage_path=str(folder / TUNE_FOLDER), verbose=0),
    )

    errors: dict[str, str] = {}
    for result in tuner.fit():
        name = str((result.config or {}).get("name"))
        reason = (result.metrics or {}).get("reason")
        if result.error is not None:
            errors[name] = str(result.error).strip().splitlines()[-1]
        elif reason is None:
            # Ray Tune catches the interrupt, and ends its trials without a result or an error.
            raise KeyboardInterrupt
        elif reason:
            errors[name] = reason
    shutil.rmtree(folder / TUNE_FOLDER / "study", ignore_errors=True)
    return errors


def threads_per_run(num_concurrent: int) -> int:
    """Return the CPU threads of each of `num_concurrent` runs, which may all be on one node."""
    return max(1, share_cpus(1) // num_concurrent)


def _to_payload(study_run: StudyRun) -> dict[str, Any]:
    """Return a study run as plain JSON values, to be sent to another process."""
    return {
        "variant": study_run.variant,
        "task": study_run.task,
        "seed": study_run.seed,
        "job": study_run.job.model_dump(mode="json"),
        "structure_of": study_run.structure_of,
        "fresh": study_run.fresh,
    }


def _from_payload(payload: dict[str, Any]) -> StudyRun:
    """Return the study run that `_to_payload` was given."""
    return StudyRun(**{**payload, "job": parse_job(payload["job"])})


def _execute_in_process(
    folder: str, settings: dict[str, Any], payload: dict[str, Any], threads: int
) -> str:
    """Execute one study run; return the reason why it failed, or an empty text.

    Args:
        folder: Folder of the study.
        settings: Section [study] of the study, as JSON values.
        payload: Result of `_to_payload`.
        threads: CPU threads of this process, which shares its node with other runs.
    """
    import torch

    from raycomp.runtime.studies.study_run import execute_study_run

    torch.set_num_threads(threads)
    try:
        execute_study_run(Path(folder), StudySettings.model_validate(settings), _from_payload(payload))
    except UserError as error:
        return str(error)
    return ""

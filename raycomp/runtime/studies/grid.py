"""Executes a batch of study runs at the same time, each in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.config.study import StudyRun
from raycomp.config.study_settings import StudySettings
from raycomp.errors import UserError
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import is_visible_to_all_nodes
from raycomp.runtime.cluster.grid import Trial, run_grid
from raycomp.runtime.cluster.placement import schedule_outside_trial
from raycomp.storage.study_layout import StudyLayout


def run_batch(settings: StudySettings, batch: list[StudyRun], folder: Path) -> dict[str, str]:
    """Execute study runs at the same time, as many as the cluster has room for.

    Args:
        settings: Section [study] of the study.
        batch: Runs that do not depend on each other.
        folder: Directory of the study.

    Returns:
        Name of each failed run -> reason.

    Raises:
        KeyboardInterrupt: The user interrupted the study.
    """
    settings_payload = settings.model_dump(mode="json")
    train = batch[0].job.train
    worker_slots = count_worker_slots(train.cpus or share_cpus(1), train.gpus)
    max_parallel = max(1, worker_slots // train.workers)
    threads = threads_per_run(min(max_parallel, len(batch)))
    placement = schedule_outside_trial(is_visible_to_all_nodes(folder))

    def run_trial(trial: Trial) -> dict[str, Any]:
        # A run starts Ray Train and Ray Tune itself, so it gets a process of its own outside of the
        # trial's placement group. `max_calls=1` ends the process and frees its memory.
        task = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=placement)(
            _execute_in_process
        )
        return {"reason": ray.get(task.remote(str(folder), settings_payload, trial, threads))}

    results = run_grid(
        [_to_payload(study_run) for study_run in batch],
        run_trial,
        name="study",
        folder=folder,
        max_parallel=max_parallel,
        reuse_processes=True,
    )
    # Files of failed trials stay after `run_grid`. The rows in `ablations` are all that a study needs.
    shutil.rmtree(StudyLayout(folder).tune, ignore_errors=True)

    reasons = {
        _from_payload(result.trial).name: result.error or result.metrics["reason"] for result in results
    }
    return {name: reason for name, reason in reasons.items() if reason}


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
        folder: Directory of the study.
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

"""What Ray Train's controller gets: time limits, and a counter of failures."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.errors import TrainingEndedError
from raycomp.runtime.training.failures import FailureCounter
from raycomp.runtime.training.trainer import WorkerGroup, _describe, _make_trainer, _train_environment


def test_no_wait_of_ray_train_is_without_limit(tiny_job: dict[str, Any]) -> None:
    tiny_job["train"]["barrier_seconds"] = 8
    job = parse_job(tiny_job)
    fixed = _train_environment(job, WorkerGroup(2, 2, 1, 0))
    assert fixed == {
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "8",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "8",
    }
    elastic = _train_environment(job, WorkerGroup(1, 2, 1, 0))
    assert elastic == {**fixed, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}


def test_the_counter_decides_when_a_training_ends(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    tiny_job["train"]["max_failures"] = 5
    job = parse_job(tiny_job)
    for group, max_failures in ((WorkerGroup(2, 2, 1, 0), 5), (WorkerGroup(1, 4, 1, 0), 9)):
        run_config = _make_trainer("teacher", job, tmp_path, group, {}).run_config
        assert run_config.failure_config.max_failures == -1
        (counter,) = run_config.callbacks
        assert isinstance(counter, FailureCounter)
        assert pickle.loads(pickle.dumps(counter))._max_failures == max_failures


def test_the_counters_message_is_the_users() -> None:
    error: Any = RuntimeError("Training failed due to controller error:\nand a stack trace")
    error.controller_failure = TrainingEndedError("Free space.")
    assert _describe(error, Path(), "teacher") == "Free space."

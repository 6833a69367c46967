"""What Ray Train's controller gets: time limits, and a counter of failures."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import RunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raycomp.config.loader import parse_job
from raycomp.errors import ProcessLostError, TrainingEndedError
from raycomp.runtime.training import light_trainer
from raycomp.runtime.training.failures import FailureCounter
from raycomp.runtime.training.light_trainer import DATASETS, PLACEMENT_GROUPS
from raycomp.runtime.training.trainer import (
    WorkerGroup,
    _describe_failed,
    _make_trainer,
    _train_environment,
)


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


@pytest.mark.parametrize("is_own", [True, False])
def test_a_training_starts_no_helper_that_it_does_not_need(
    is_own: bool, tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_trainer, "is_own_cluster", lambda: is_own)
    usual = _names_of(TorchTrainer(print, run_config=RunConfig(name="usual", storage_path=str(tmp_path))))
    # A version of Ray that renames them would start them again.
    assert {DATASETS, PLACEMENT_GROUPS} <= usual

    for group, is_single in (
        (WorkerGroup(1, 1, 1, 0), True),
        (WorkerGroup(1, 1, 1, 1), False),
        (WorkerGroup(2, 2, 1, 0), False),
        (WorkerGroup(1, 2, 1, 0), False),
    ):
        trainer = _make_trainer("teacher", parse_job(tiny_job), tmp_path, group, {})
        # A single worker needs no process group. On a GPU, Ray Train's backend selects the device.
        assert isinstance(trainer, TorchTrainer) is not is_single
        left_out = {DATASETS, PLACEMENT_GROUPS} if is_own else {DATASETS}
        assert _names_of(trainer) == usual - left_out


def _names_of(trainer: DataParallelTrainer) -> set[str]:
    """Return the names of the callbacks that a trainer gives to Ray Train's controller."""
    callbacks = trainer._create_default_callbacks()
    return {type(entry).__name__ for entry in callbacks}


def test_the_counters_message_is_the_users() -> None:
    error: Any = RuntimeError("Training failed due to controller error:\nand a stack trace")
    error.controller_failure = TrainingEndedError("Free space.")
    failure = _describe_failed(error, Path(), "teacher")
    assert str(failure) == "Training task teacher failed. Free space."
    # A trial of a sweep is not started again for it.
    assert not isinstance(failure, ProcessLostError)


def test_a_failure_of_ray_train_itself_may_be_tried_again(tmp_path: Path) -> None:
    failure = _describe_failed(ray.exceptions.ActorDiedError(), tmp_path, "teacher")
    assert isinstance(failure, ProcessLostError)
    assert str(failure).startswith("Training task teacher failed. ")

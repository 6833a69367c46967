"""An all-reduce that fails: how the ranks that still run name the missing ones."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist

from raycomp.data.batches import Batch
from raycomp.errors import AllReduceError, MissingRankError, StaleAttemptError
from raycomp.methods.supernet import SupernetTask
from raycomp.methods.tasks import TrainingTask
from raycomp.runtime.training.all_reduce import FlatAllReduce
from raycomp.runtime.training.sampler_client import ActorSampler
from raycomp.runtime.training.worker import _with_rank_names
from raycomp.training.loop import StepResult

NO_BATCH: Any = None
REASON = "the all-reduce of the gradients failed because"


class SumTask(TrainingTask):
    """A training task whose step sums one number over the ranks."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = torch.tensor([value])

    def finish(self) -> None:
        """Write nothing."""

    def step(self, index: int, batch: Batch) -> StepResult:
        FlatAllReduce()([self.value])
        return StepResult(float(self.value), 0)


def test_the_ranks_that_run_name_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks of gloo are threads. Rank 2 takes part in the first sum only."""
    store = dist.HashStore()
    local = threading.local()
    monkeypatch.setattr(dist, "all_reduce", lambda flat: local.group.allreduce([flat]).wait())

    sums: dict[int, float] = {}
    messages: dict[int, str] = {}
    has_ended = threading.Event()

    def run_rank(rank: int) -> None:
        local.group = dist.ProcessGroupGloo(store, rank, 3, timedelta(seconds=1))
        task: Any = SumTask(rank + 1.0)
        task.begin(rank, 3, None)
        step = _with_rank_names(task)
        sums[rank] = step(0, NO_BATCH).loss
        if rank == 2:
            has_ended.wait(20)
            return
        try:
            step(1, NO_BATCH)
        except MissingRankError as error:
            messages[rank] = str(error)

    threads = [threading.Thread(target=run_rank, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join(20)
    has_ended.set()

    assert sums == {0: 6.0, 1: 6.0, 2: 6.0}
    for rank, others in ((0, "1, 2"), (1, "0, 2")):
        assert messages[rank].startswith(f"Step 1: {REASON} one of ranks {others} did not respond (")


def test_with_two_ranks_the_other_one_is_named() -> None:
    task: Any = SumTask()
    task.begin(1, 2, None)
    assert task.describe_failed_step(7) == "rank 0 did not respond"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([1], "rank 1 did not respond"),
        ([1, 3], "ranks 1, 3 did not respond"),
        ([], "one of ranks 0, 1, 3 did not respond"),
        (ray.exceptions.GetTimeoutError(), "one of ranks 0, 1, 3 did not respond"),
        (
            ray.exceptions.RayTaskError("missing", "", StaleAttemptError("gone")).as_instanceof_cause(),
            "one of ranks 0, 1, 3 did not respond",
        ),
    ],
)
def test_the_sampler_actor_knows_the_missing_ranks(
    answer: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def get(reference: Any, timeout: float) -> list[int]:
        if isinstance(reference, Exception):
            raise reference
        return reference

    def missing(attempt: str, rank: int, step: int) -> Any:
        calls.append((attempt, rank, step))
        return answer

    def fail(index: int, batch: Batch) -> StepResult:
        raise AllReduceError("Timed out waiting 8000ms for recv operation to complete")

    monkeypatch.setattr(ray, "get", get)
    task: Any = object.__new__(SupernetTask)
    TrainingTask.begin(task, 2, 4, None)
    task._sampler = ActorSampler(SimpleNamespace(missing=SimpleNamespace(remote=missing)), "a", 2)
    task.step = fail

    with pytest.raises(MissingRankError) as caught:
        _with_rank_names(task)(4, NO_BATCH)
    assert str(caught.value).startswith(
        f"Step 4: {REASON} {reason} "
        "(Timed out waiting 8000ms for recv operation to complete). Check the node of that worker"
    )
    assert calls == [("a", 2, 4)]


def test_other_errors_of_a_step_are_not_changed() -> None:
    def fail(index: int, batch: Batch) -> StepResult:
        raise RuntimeError("a tensor is too large")

    task: Any = SumTask()
    task.step = fail
    with pytest.raises(RuntimeError, match="too large") as caught:
        _with_rank_names(task)(0, NO_BATCH)
    assert not isinstance(caught.value, MissingRankError)

"""A worker that does not come: what the others' error says, and what becomes the user's message."""

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
from raycomp.runtime.training.trainer import _root_cause
from raycomp.runtime.training.worker import _with_rank_names
from raycomp.training.loop import StepResult

BATCH: Any = None


class Sums(TrainingTask):
    """A stage whose step is the sum of one tensor."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = torch.tensor([value])

    def finish(self) -> None:
        """Write nothing."""

    def step(self, index: int, batch: Batch) -> StepResult:
        FlatAllReduce()([self.value])
        return StepResult(float(self.value), 0)


def test_a_sum_that_a_rank_does_not_join_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three ranks of gloo as threads; rank 2 joins the first sum and not the second."""
    store, local = dist.HashStore(), threading.local()
    monkeypatch.setattr(dist, "all_reduce", lambda flat: local.group.allreduce([flat]).wait())
    said: dict[int, str] = {}
    sums: dict[int, float] = {}

    def rank(me: int) -> None:
        local.group = dist.ProcessGroupGloo(store, me, 3, timedelta(seconds=1))
        stage: Any = Sums(me + 1.0)
        stage.begin(me, 3, None)
        step = _with_rank_names(stage)
        sums[me] = step(0, BATCH).loss
        if me == 2:
            gone.wait(20)
            return
        try:
            step(1, BATCH)
        except MissingRankError as error:
            said[me] = str(error)

    gone = threading.Event()
    threads = [threading.Thread(target=rank, args=(r,), daemon=True) for r in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join(20)
    gone.set()
    assert sums == {0: 6.0, 1: 6.0, 2: 6.0}
    assert said[0].startswith(
        "Step 1: the all-reduce of the gradients failed because one of ranks 1, 2 did not respond ("
    )
    assert said[1].startswith(
        "Step 1: the all-reduce of the gradients failed because one of ranks 0, 2 did not respond ("
    )


def test_of_two_workers_the_other_one_is_named() -> None:
    stage: Any = Sums()
    stage.begin(1, 2, None)
    assert stage.describe_failed_step(7) == "rank 0 did not respond"


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
def test_the_sampler_is_asked_who_is_missing(
    answer: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def get(reference: Any, timeout: float) -> list[int]:
        if isinstance(reference, Exception):
            raise reference
        return reference

    def missing(attempt: str, rank: int, step: int) -> Any:
        asked.append((attempt, rank, step))
        return answer

    def fail(index: int, batch: Batch) -> StepResult:
        raise AllReduceError("Timed out waiting 8000ms for recv operation to complete")

    monkeypatch.setattr(ray, "get", get)
    stage: Any = object.__new__(SupernetTask)
    TrainingTask.begin(stage, 2, 4, None)
    stage._sampler = ActorSampler(SimpleNamespace(missing=SimpleNamespace(remote=missing)), "a", 2)
    stage.step = fail
    with pytest.raises(MissingRankError) as caught:
        _with_rank_names(stage)(4, BATCH)
    assert str(caught.value).startswith(
        f"Step 4: the all-reduce of the gradients failed because {reason} "
        "(Timed out waiting 8000ms for recv operation to complete). Check the node of that worker"
    )
    assert asked == [("a", 2, 4)]


def test_other_errors_of_a_step_pass() -> None:
    def fail(index: int, batch: Batch) -> StepResult:
        raise RuntimeError("a tensor is too large")

    stage: Any = Sums()
    stage.step = fail
    with pytest.raises(RuntimeError, match="too large") as caught:
        _with_rank_names(stage)(0, BATCH)
    assert not isinstance(caught.value, MissingRankError)


def test_the_users_message_is_that_of_the_worker_that_knows() -> None:
    hung = "Traceback (most recent call last):\n  ...\nWorkerHealthCheckTimeoutError: hanging for 8 s"
    told = "Traceback (most recent call last):\n  ...\nraycomp.runtime.worker.RankMissing: step 4: rank 0"
    user = "Traceback ...\nraycomp.errors.UserError: mend it\n"
    both = SimpleNamespace(worker_failures={0: hung, 1: told})
    alone = SimpleNamespace(worker_failures={0: hung})
    assert _root_cause(both) == "step 4: rank 0"  # type: ignore[arg-type]
    assert _root_cause(alone) == "WorkerHealthCheckTimeoutError: hanging for 8 s"  # type: ignore[arg-type]
    assert _root_cause(SimpleNamespace(worker_failures={0: user})) == "mend it"  # type: ignore[arg-type]
    assert _root_cause(ValueError("what else")) == "what else"

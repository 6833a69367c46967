"""Which failures of a training end it, what the user then reads, and where the stack traces are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train.v2._internal.exceptions import BroadcastCollectiveTimeoutError

from raycomp.errors import (
    DivergedError,
    MissingRankError,
    PermanentError,
    RankFailedError,
    TrainingEndedError,
    UserError,
)
from raycomp.runtime.training.failures import FailureCounter, describe_failure
from raycomp.storage.layout import RunLayout

CHECKPOINT: Any = object()


def fail(counter: FailureCounter, *errors: Exception) -> None:
    """Let the ranks fail with some errors."""
    counter.after_exception(None, dict(enumerate(errors)))


def rank_failure(error: Exception) -> RankFailedError:
    """Return the error of a rank as it arrives in the controller: pickled."""
    try:
        raise error
    except Exception as raised:
        failure: RankFailedError = pickle.loads(pickle.dumps(describe_failure(raised, 8.0)))
        return failure


def test_only_failures_without_a_new_checkpoint_are_counted(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 2)
    error = rank_failure(RuntimeError("the node has a fault\nand more lines"))

    for step in range(10, 100, 10):
        fail(counter, error)
        fail(counter, error)
        counter.after_report(None, [{"step": step}, {"step": step}], CHECKPOINT)

    # The same checkpoint again, and a report without a checkpoint, are no progress.
    fail(counter, error)
    counter.after_report(None, [{"step": 90}], CHECKPOINT)
    counter.after_report(None, [{"step": 100}], None)
    fail(counter, error)
    with pytest.raises(TrainingEndedError) as caught:
        fail(counter, error)

    traces = sorted(RunLayout(tmp_path).errors.iterdir())
    assert len(traces) == 21
    assert str(caught.value) == (
        "It failed 3 times without a new checkpoint, at last: RuntimeError: the node has a fault. The "
        f"stack trace is in {traces[-1]}."
    )
    text = traces[-1].read_text()
    assert text.startswith("Rank 0\n")
    assert "in rank_failure" in text
    assert "and more lines" in text


def test_a_loss_that_is_not_finite_ends_the_training_at_once(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 3)
    diverged = rank_failure(DivergedError("The loss is nan at step 3. Lower the learning rate."))
    gone = rank_failure(MissingRankError("Step 3: rank 1 did not respond."))
    with pytest.raises(
        TrainingEndedError, match=r"^The loss is nan at step 3\. Lower the learning rate\."
    ):
        fail(counter, gone, diverged)


def test_an_error_of_the_user_is_the_message_and_has_no_stack_trace(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 0)
    with pytest.raises(TrainingEndedError) as caught:
        fail(
            counter, RuntimeError("WorkerHealthCheckTimeoutError"), rank_failure(UserError("Free space."))
        )
    assert str(caught.value) == "Free space."
    assert not RunLayout(tmp_path).errors.exists()


def test_a_refusal_that_every_attempt_would_get_ends_the_training_at_once(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 3)
    refusal = rank_failure(PermanentError("PyTorch sees no CUDA device there. Install another PyTorch."))
    with pytest.raises(TrainingEndedError, match=r"^PyTorch sees no CUDA device there\. Install"):
        fail(counter, rank_failure(MissingRankError("rank 0")), refusal)
    # Its message is complete.
    assert not RunLayout(tmp_path).errors.exists()


def test_a_storage_that_fails_for_a_moment_does_not_end_a_training(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 3)
    fail(
        counter,
        rank_failure(UserError("a.arrow cannot be read from the storage.")),
    )


def test_nodes_that_leave_as_announced_are_not_counted(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 0)
    preempted = ray.exceptions.ActorDiedError()
    preempted._preempted = True
    fail(counter, preempted, rank_failure(MissingRankError("rank 0")))


def test_a_full_storage_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "errors").write_text("a file in place of the directory")
    counter = FailureCounter(str(tmp_path), "supernet", 0)
    with pytest.raises(TrainingEndedError, match=r"^KeyError: 'x'$"):
        fail(counter, rank_failure(KeyError("x")))


def test_the_error_of_a_healthy_rank_says_more_than_rays_report_of_a_hung_one(tmp_path: Path) -> None:
    counter = FailureCounter(str(tmp_path), "supernet", 0)
    named = rank_failure(MissingRankError("Step 4: rank 0 did not respond."))
    with pytest.raises(TrainingEndedError, match=r"^Step 4: rank 0 did not respond\."):
        fail(counter, RuntimeError("Worker info\nhanging for 8 s"), named)


@pytest.mark.parametrize(("ranks", "phrase"), [([1], "Rank 1 did"), ([1, 3], "Ranks 1, 3 did")])
def test_the_ranks_that_did_not_reach_a_report_are_named(ranks: list[int], phrase: str) -> None:
    """The class is Ray's own: another text in a later version must be noticed."""
    timeout = BroadcastCollectiveTimeoutError(8.1, ranks, 8.0)
    error = ray.exceptions.RayTaskError("broadcast_from_rank_zero", str(timeout), timeout)
    failure = rank_failure(error.as_instanceof_cause())
    assert str(failure).startswith(
        f"{phrase} not respond within 8 s (train.barrier_seconds). Check the node"
    )
    assert failure.kind == "MissingRankError"


def test_an_error_that_an_actor_raised_is_one_line() -> None:
    cause = UserError("The file is gone.")
    text = "ray::RunFileServer.read_block()\n  File x\nraycomp.errors.UserError: The file is gone."
    failure = rank_failure(ray.exceptions.RayTaskError("read", text, cause).as_instanceof_cause())
    assert (failure.kind, str(failure)) == ("UserError", "The file is gone.")

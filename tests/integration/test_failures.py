"""Failures on Ray: stuck threads, dead evaluators, a loss that is NaN, and a run after a failed one."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.runtime.cluster import waiting
from raycomp.runtime.scoring.ledger import Ledger
from raycomp.runtime.training import trainer
from raycomp.runtime.training.failures import describe_failure
from raycomp.storage.layout import RunLayout
from tests.integration.conftest import run_silently

BARRIER_SECONDS = 3.0


def make_worker(stuck_attempts: int, place: str) -> Callable[[dict[str, Any]], None]:
    """Return the function of a rank. Rank 1 gets stuck in its third step, in its first attempts.

    Ray sends the function to the workers as it is here.

    Args:
        stuck_attempts: Number of attempts in which it gets stuck.
        place: What the other rank calls then: "broadcast" or "report".
    """

    def work(config: dict[str, Any]) -> None:
        rank = ray.train.get_context().get_world_rank()
        folder = Path(config["run_dir"])
        try:
            checkpoint = ray.train.get_checkpoint()
            start = 0
            if checkpoint is not None:
                with checkpoint.as_directory() as path:
                    start = int((Path(path) / "step").read_text())
            (folder / f"start-{rank}-{time.time_ns()}").write_text(str(start))

            for step in range(start, 4):
                num_attempts = len(list(folder.glob(f"start-{rank}-*")))
                if rank == 1 and step == 2 and num_attempts <= stuck_attempts:
                    # Such as a read from a file server that does not answer.
                    threading.Event().wait()
                if place == "broadcast":
                    broadcast_from_rank_zero(step)
                with tempfile.TemporaryDirectory() as path:
                    (Path(path) / "step").write_text(str(step + 1))
                    own = ray.train.Checkpoint.from_directory(path) if rank == 0 else None
                    ray.train.report({"step": step + 1}, checkpoint=own)
        except Exception as error:
            raise describe_failure(error, 3.0) from error

    return work


@pytest.fixture
def train_job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    """A job with two workers that notice after some seconds that one of them is stuck."""
    tiny_job["train"] |= {"workers": 2, "cpus": 1, "barrier_seconds": BARRIER_SECONDS}
    return tiny_job


def run_worker_function(
    work: Callable[[dict[str, Any]], None], job: dict[str, Any], run_dir: Path, **options: Any
) -> None:
    """Run a function on Ray Train in place of a training task."""
    run_dir.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_run_worker", work)
        trainer.run_training("task", parse_job(job), run_dir, {}, lambda *_: None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["report", "broadcast"])
def test_a_rank_with_a_stuck_thread_is_replaced(
    train_job: dict[str, Any], tmp_path: Path, place: str
) -> None:
    """Its process answers Ray, so only the time limit of the barrier shows that it is stuck."""
    run_worker_function(make_worker(1, place), train_job, tmp_path)

    starts = sorted((int(path.name.split("-")[2]), path.read_text()) for path in tmp_path.glob("start-*"))
    # Two ranks twice; the second attempt resumes after two steps.
    assert [start for _, start in starts] == ["0", "0", "2", "2"]
    (trace,) = RunLayout(tmp_path).errors.glob("task-*.txt")
    assert "have not joined the collective operation: [1]" in trace.read_text()


@pytest.mark.slow
def test_a_rank_that_is_stuck_again_and_again_is_one_message(
    train_job: dict[str, Any], tmp_path: Path
) -> None:
    train_job["train"]["max_failures"] = 1
    with pytest.raises(UserError) as caught:
        run_worker_function(make_worker(9, "report"), train_job, tmp_path)
    # The first failure had a new checkpoint before it, the second one had not.
    assert "Training task task failed. It failed 2 times without a new checkpoint" in str(caught.value)
    assert "Rank 1 did not respond within 3 s (train.barrier_seconds)" in str(caught.value)
    assert str(RunLayout(tmp_path).errors) in str(caught.value)


def test_a_training_that_waits_for_cpus_says_so(
    train_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 1.0)

    @ray.remote(num_cpus=1)
    class Occupant:
        """Holds a CPU, as another run does."""

        def pid(self) -> int:
            return os.getpid()

    occupant = Occupant.remote()
    ray.get(occupant.pid.remote())
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        ray.kill(occupant)

    run_worker_function(make_worker(0, "report"), train_job, tmp_path, say=say)
    assert lines[0].startswith("task waits for 2 CPUs, 1 free, ")


def test_the_ledger_continues_without_a_dead_evaluator_of_eight(tmp_path: Path) -> None:
    # A class in a function: Ray sends it to the actors, which then do not import this module.
    class BareEvaluator:
        def evaluate(self, archs: list[str], split: str, precision: str) -> list[dict[str, Any]]:
            import time

            time.sleep(0.02)
            names = {"split": split, "precision": precision, "metric": "accuracy"}
            figures = {
                "value": 0.5,
                "loss": 1.0,
                "examples": 3,
                "params": 1,
                "flops": 1.0,
                "seconds": 0.1,
            }
            return [{"arch_id": arch, "arch": arch, **names, **figures} for arch in archs]

        def pid(self) -> int:
            import os

            return os.getpid()

    options = {"num_cpus": 0, "max_restarts": 1, "max_task_retries": 0}
    actor_class = ray.remote(BareEvaluator)
    names = [f"evaluator-{tmp_path.name}-{i}" for i in range(8)]
    actors = [actor_class.options(name=name, **options).remote() for name in names]
    pids = ray.get([actor.pid.remote() for actor in actors])
    ledger = ray.remote(Ledger).options(num_cpus=0, max_concurrency=100)
    ledger = ledger.remote(str(tmp_path), "w", "accuracy", names)
    archs = [Architecture(2, (1, h), (16, k)).to_json() for h in (1, 2, 4) for k in range(100)]

    # One cannot start again, and another one can.
    ray.kill(actors[7])
    calls = [ledger.score.remote(archs[i : i + 50], "selection", "fp32") for i in range(0, 300, 50)]
    os.kill(pids[3], signal.SIGKILL)
    rows = [row for reply in ray.get(calls, timeout=60) for row in reply]
    assert [row["arch"] for row in rows] == archs

    deadline = time.monotonic() + 20
    while (status := ray.get(ledger.describe_pool.remote())).num_left != 7:
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    assert len(status.losses) == 1
    for actor in (ledger, *actors):
        ray.kill(actor)


class BrokenHint:
    """A distillation term whose loss is not a number."""

    needs_teacher: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False

    def loss(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        return student.logits.sum() * torch.nan


@pytest.mark.slow
def test_a_run_after_a_failed_one_in_the_same_process(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["model"]["name"] = str(tuned_model)
    tiny_job["search"]["evaluations"] = 4
    tiny_job["budget"] = tiny_job["budget"][:1]
    broken = {**tiny_job, "train": {**tiny_job["train"], "distill": f"{__name__}:BrokenHint"}}

    with pytest.raises(UserError, match="The loss is nan at step 0") as caught:
        run_silently(broken, tmp_path)
    layout = RunLayout(tmp_path / parse_job(broken).run_id)
    (trace,) = layout.errors.iterdir()
    assert str(trace) in str(caught.value)
    assert "DivergedError" in trace.read_text()
    # The loss would be the same again.
    assert layout.attempt("supernet").read_text().count("a1x") == 1

    # A notebook keeps the error, with its frames.
    assert caught.value.__traceback__ is not None
    run_dir = run_silently(tiny_job, tmp_path)
    assert RunLayout(run_dir).summary("yoco").exists()
    wait_for_all_cpus()


def wait_for_all_cpus() -> None:
    """Wait until no work holds a CPU."""
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)

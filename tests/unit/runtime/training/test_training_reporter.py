"""When a rank writes rows and checkpoints: theta is read between two blocks of steps only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from raycomp.config.loader import parse_job
from raycomp.errors import AttemptReplacedError
from raycomp.methods.yoco.plan import build_sampler
from raycomp.runtime.cluster.replica import LocalRunDir
from raycomp.runtime.training import recorder
from raycomp.runtime.training.recorder import (
    CHECK_STEPS,
    FLUSH_STEPS,
    TrainingReporter,
    name_part,
    read_part_name,
)
from raycomp.storage.tables import table_dir, write_rows
from raycomp.training.loop import StepResult, fit
from tests.integration.test_actors import plan_of

PHASE_STEPS = [1, 2, 0, 12, 1, 30, 60]
TOTAL = sum(PHASE_STEPS)


class SampledTask:
    """A training task with its sampler in this process. It refuses to read theta inside a block."""

    method = "yoco"
    steps_per_epoch = 10
    num_steps = TOTAL

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], start: int) -> None:
        self.sampler = build_sampler(parse_job(job), plan)
        self._schedule = self.sampler.schedule
        self.model = nn.Linear(1, 1)
        self.updater = SimpleNamespace(state_tensors=dict[str, torch.Tensor])
        self.theta_steps: list[int] = []

        self.block_ends = {0}
        step = 0
        while step < self.num_steps:
            step = self.sampler.block_end(step)
            self.block_ends.add(step)
        assert start in self.block_ends

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        assert step in self.block_ends
        self.theta_steps.append(step)
        return [{"run": "r", "step": step, "variable": "depth", "choice": "1", "probability": 1.0}]

    def is_phase_start(self, step: int) -> bool:
        return step == self._schedule.first_step(self._schedule.index_at(step))

    def checkpoint_state(self, step: int) -> dict[str, Any]:
        assert step in self.block_ends
        return {}

    def step(self, index: int, batch: Any) -> StepResult:
        info = {"phase": self._schedule.phase_at(index).name, "explored": False}
        return StepResult(1.0, 10, {**info, "p_exploit": 1.0, "entropy": 1.0})


@pytest.mark.parametrize("block_steps", [1, 2, 5, 10])
@pytest.mark.parametrize("start", [0, 3, 10, 20, 50, 100])
def test_theta_and_checkpoints_are_between_blocks(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block_steps: int,
    start: int,
) -> None:
    """Some starts are inside a phase, whose first step is then not in this attempt."""
    checkpoint_steps: list[int] = []
    monkeypatch.setattr(
        recorder.ray.train, "report", lambda metrics, **_: checkpoint_steps.append(metrics["step"])
    )
    train = {**tiny_job["train"], "sampler_sync_steps": block_steps, "checkpoint_seconds": 1e-9}
    job = {**tiny_job, "train": train}
    task: Any = SampledTask(job, {**plan_of(job, tmp_path), "steps": PHASE_STEPS}, start)
    run_dir = LocalRunDir(tmp_path, None)
    attempt = run_dir.start_attempt("supernet")
    no_batch: Any = None

    reporter = TrainingReporter(task, "supernet", run_dir, 0, 1, start, attempt, parse_job(job))
    fit(task.step, lambda index: no_batch, start, task.num_steps, seed=0, report=reporter.report)
    reporter.checkpoint(task.num_steps)

    phase_starts = {step for step in range(start, TOTAL) if task.is_phase_start(step)}
    assert {step + 1 for step in phase_starts} <= set(task.theta_steps)

    first_checkpoint = start // CHECK_STEPS * CHECK_STEPS + CHECK_STEPS
    assert checkpoint_steps == [*range(first_checkpoint, TOTAL, CHECK_STEPS), TOTAL]

    theta = pd.read_parquet(table_dir(tmp_path, "distribution"))
    assert not theta["step"].duplicated().any()
    steps = pd.read_parquet(table_dir(tmp_path, "steps"))
    assert sorted(steps["step"]) == list(range(start, TOTAL))


@pytest.mark.parametrize("block_steps", [1, 2, 5, 10])
def test_rows_and_checkpoints_are_due_between_blocks(block_steps: int) -> None:
    assert CHECK_STEPS % block_steps == 0
    assert FLUSH_STEPS % block_steps == 0


class PlainTask:
    """A training task without a sampler, with the given number of steps."""

    method = "yoco"
    steps_per_epoch = 10
    num_steps = 200

    def is_phase_start(self, step: int) -> bool:
        return False

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        return [{"run": "r", "step": step, "variable": "depth", "choice": "1", "probability": 1.0}]


def make_reporter(folder: Path, start: int, job: dict[str, Any]) -> TrainingReporter:
    """Return the reporter of a new attempt that begins at a step."""
    task: Any = PlainTask()
    run_dir = LocalRunDir(folder, None)
    attempt = run_dir.start_attempt("supernet")
    return TrainingReporter(task, "supernet", run_dir, 0, 1, start, attempt, parse_job(job))


def report_steps(reporter: TrainingReporter, first: int, end: int) -> None:
    for step in range(first, end):
        reporter.report(step, StepResult(1.0, 10), 0.1)


def recorded_steps(folder: Path) -> list[int]:
    return sorted(pd.read_parquet(table_dir(folder, "steps"))["step"])


def test_a_worker_of_a_replaced_attempt_writes_no_row_twice(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """Its node lost the connection: it trains on, while the next attempt has resumed at step 60."""
    tiny_job["train"]["checkpoint_seconds"] = 3600
    orphan = make_reporter(tmp_path, 0, tiny_job)
    report_steps(orphan, 0, 60)
    orphan.flush()
    report_steps(orphan, 60, 140)
    assert recorded_steps(tmp_path) == list(range(100))

    current = make_reporter(tmp_path, 60, tiny_job)
    assert recorded_steps(tmp_path) == list(range(60))
    with pytest.raises(AttemptReplacedError, match="was replaced by attempt a2x"):
        orphan.flush()

    # The orphan has passed its check just before the attempt was replaced, and writes now.
    orphan._run_dir.check_attempt = lambda: None  # type: ignore[method-assign]
    orphan.flush()
    report_steps(current, 60, 130)
    current.flush()
    # It does not remove what the current attempt has written.
    report_steps(orphan, 140, 150)
    assert set(range(130)) <= set(recorded_steps(tmp_path))

    report_steps(current, 130, 200)
    current.flush()
    assert recorded_steps(tmp_path) == list(range(200))
    theta = pd.read_parquet(table_dir(tmp_path, "distribution"))
    assert not theta["step"].duplicated().any()


def test_rows_of_earlier_versions_are_replaced_too(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """The names of their files have no attempt."""
    tiny_job["train"]["checkpoint_seconds"] = 3600
    for training, first in (("supernet", 0), ("supernet", 50), ("supernet.other", 50), ("teacher", 50)):
        rows = [{"run": "r", "step": first + i, "training": training} for i in range(50)]
        write_rows(tmp_path, "steps", rows, f"{training}-{first:09d}")

    reporter = make_reporter(tmp_path, 50, tiny_job)
    report_steps(reporter, 50, 200)
    reporter.flush()
    steps = pd.read_parquet(table_dir(tmp_path, "steps"))
    assert sorted(steps.loc[steps["training"] == "supernet", "step"]) == list(range(200))
    assert len(steps) == 300


@pytest.mark.parametrize(
    ("stem", "part"),
    [
        ("supernet-000000050", ("supernet", 50, "")),
        ("supernet-000000050.a3x9f21c2", ("supernet", 50, "a3x9f21c2")),
        (
            "adabert-search.beta4-gamma0_8-k3-s0-000000100.a12xff",
            ("adabert-search.beta4-gamma0_8-k3-s0", 100, "a12xff"),
        ),
        ("other", None),
    ],
)
def test_the_name_of_a_part_is_read_back(stem: str, part: Any) -> None:
    assert read_part_name(stem) == part
    if part is not None and part[2]:
        assert name_part(*part) == stem

"""What a rank keeps: theta is asked for between two blocks alone, wherever a run goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from raycomp.config.loader import parse_job
from raycomp.methods.yoco.plan import build_sampler
from raycomp.runtime.training import recorder
from raycomp.runtime.training.recorder import CHECK_STEPS, FLUSH_STEPS, TrainingReporter
from raycomp.storage.tables import table_dir
from raycomp.training.loop import StepResult, fit
from tests.integration.test_actors import plan_of

STEPS = [1, 2, 0, 12, 1, 30, 60]


class Sampled:
    """A super-network's stage, its sampler in this process: it refuses theta within a block."""

    method, steps_per_epoch, num_steps = "yoco", 10, sum(STEPS)

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], start: int) -> None:
        self.sampler = build_sampler(parse_job(job), plan)
        self._schedule = self.sampler.schedule
        self.model, self.updater = nn.Linear(1, 1), SimpleNamespace(state_tensors=dict[str, torch.Tensor])
        self.asked: list[int] = []
        self.ends, at = {0}, 0
        while at < self.num_steps:
            at = self.sampler.block_end(at)
            self.ends.add(at)
        assert start in self.ends

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        assert step in self.ends
        self.asked.append(step)
        return [{"run": "r", "step": step, "variable": "depth", "choice": "1", "probability": 1.0}]

    def is_phase_start(self, step: int) -> bool:
        return step == self._schedule.first_step(self._schedule.index_at(step))

    def checkpoint_state(self, step: int) -> dict[str, Any]:
        assert step in self.ends
        return {}

    def step(self, index: int, batch: Any) -> StepResult:
        info = {"phase": self._schedule.phase_at(index).name, "explored": False}
        return StepResult(1.0, 10, {**info, "p_exploit": 1.0, "entropy": 1.0})


@pytest.mark.parametrize("block", [1, 2, 5, 10])
@pytest.mark.parametrize("start", [0, 3, 10, 20, 50, 100])
def test_theta_is_asked_for_between_blocks_alone(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, start: int
) -> None:
    """Also where a run goes on within a phase: the first row then opens none."""
    reported: list[int] = []
    monkeypatch.setattr(recorder.ray.train, "report", lambda m, **_: reported.append(m["step"]))
    job = {
        **tiny_job,
        "train": {**tiny_job["train"], "sampler_sync_steps": block, "checkpoint_seconds": 1e-9},
    }
    stage: Any = Sampled(job, {**plan_of(job, tmp_path), "steps": STEPS}, start)
    visit: Any = SimpleNamespace(folder=tmp_path, push=lambda: None)
    keeper = TrainingReporter(stage, "supernet", visit, 0, 1, start, parse_job(job))
    none: Any = None
    fit(stage.step, lambda index: none, start, stage.num_steps, seed=0, report=keeper.report)
    keeper.checkpoint(stage.num_steps)
    first = {i for i in range(start, stage.num_steps) if stage.is_phase_start(i)}
    assert {i + 1 for i in first} <= set(stage.asked)
    assert reported == [
        *range(
            start // CHECK_STEPS * CHECK_STEPS + CHECK_STEPS,
            stage.num_steps,
            10,
        ),
        stage.num_steps,
    ]
    theta = pd.read_parquet(table_dir(tmp_path, "distribution"))
    assert not theta["step"].duplicated().any()
    steps = pd.read_parquet(table_dir(tmp_path, "steps"))
    assert sorted(steps["step"]) == list(range(start, stage.num_steps))


def test_checkpoints_and_flushes_fall_between_blocks() -> None:
    assert all(CHECK_STEPS % block == 0 and FLUSH_STEPS % block == 0 for block in (1, 2, 5, 10))

"""Data-parallel training is the same training."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.supernet import train_supernet
from raycomp.methods.yoco.method import training_plan
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.handle import RayRun
from raycomp.runtime.pipeline.run import prepare_teacher
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors


@pytest.mark.timeout(600)
def test_one_and_two_workers_agree(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """To 1e-5, without dropout, on the same global batches: losses, teacher and super-network."""
    job = copy.deepcopy(tiny_job)
    job["train"] |= {"dropout": 0.0, "steps": 2, "learning_rate": 1e-4, "cpus": 1}
    job["teacher"] |= {"dropout": 0.0, "epochs": 0.5, "learning_rate": 1e-4}

    def context(workers: int) -> RunContext:
        job["train"] |= {"workers": workers, "distill": "hidden"}
        return RunContext(parse_job(job), tmp_path / f"w{workers}")

    one, two = context(1), context(2)
    for each in (one, two):
        prepare_teacher(each, Progress(enabled=False))
    agree(one, two, "teacher")
    shutil.rmtree(two.run_dir / "teacher")
    # Both of one teacher: a rounding error may swap two neurons of equal importance.
    shutil.copytree(one.run_dir / "teacher", two.run_dir / "teacher")
    for each in (one, two):
        run = RayRun(each, Progress(enabled=False))
        train_supernet(run, "supernet", training_plan(each))
    agree(one, two, "supernet")


def agree(one: RunContext, two: RunContext, part: str) -> None:
    first, second = (load_tensors(p.run_dir / part / "network.safetensors") for p in (one, two))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-5), (part, name)
    method = {"supernet": "yoco"}.get(part, part)
    losses = []
    for each in (one, two):
        steps = read_table(each.run_dir, "steps")
        losses.append(steps[steps["method"] == method].sort_values("step")["loss"].to_numpy())
    assert len(losses[0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)

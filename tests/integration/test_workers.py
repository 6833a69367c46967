"""Data-parallel training computes what training with one worker computes."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.method import Yoco
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.handle import RayRun
from raycomp.runtime.pipeline.run import prepare_teacher
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_and_two_workers_agree(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """Without dropout, on the same global batches, losses and weights are equal to 1e-5."""
    job = copy.deepcopy(tiny_job)
    job["train"] |= {"dropout": 0.0, "steps": 2, "learning_rate": 1e-4, "cpus": 1, "distill": "hidden"}
    job["teacher"] |= {"dropout": 0.0, "epochs": 0.5, "learning_rate": 1e-4}

    def make_context(workers: int) -> RunContext:
        job["train"]["workers"] = workers
        return RunContext(parse_job(job), tmp_path / f"w{workers}")

    one = make_context(1)
    two = make_context(2)
    for context in (one, two):
        prepare_teacher(context, Progress(enabled=False))
    assert_equal_training(one, two, "teacher")

    # Both continue with one teacher: a rounding error may swap two neurons of equal importance.
    shutil.rmtree(two.run_dir / "teacher")
    shutil.copytree(one.run_dir / "teacher", two.run_dir / "teacher")
    for context in (one, two):
        Yoco().train(RayRun(context, Progress(enabled=False)))
    assert_equal_training(one, two, "supernet")


def assert_equal_training(first: RunContext, second: RunContext, training: str) -> None:
    """Check that two runs have the same weights and losses of a training task."""
    method = {"supernet": "yoco"}.get(training, training)
    weights = []
    losses = []
    for context in (first, second):
        layout = RunLayout(context.run_dir)
        paths = {"teacher": layout.teacher_network, "supernet": layout.method("yoco").supernet_network}
        weights.append(load_tensors(paths[training]))
        steps = read_table(context.run_dir, "steps")
        losses.append(steps[steps["method"] == method].sort_values("step")["loss"].to_numpy())

    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-5), (training, name)
    assert len(losses[0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)

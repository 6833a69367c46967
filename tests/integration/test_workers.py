"""Data-parallel training is the same training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.job import parse_job
from raycomp.runtime.checkpoint import load_tensors
from raycomp.runtime.progress import Progress
from raycomp.runtime.run import _supernet, _teacher
from raycomp.runtime.workplace import Workplace
from raycomp.tables import read_table


@pytest.mark.parametrize("distill", ["none", "hidden"])
def test_one_and_two_workers_agree(tiny_job: dict[str, Any], tmp_path: Path, distill: str) -> None:
    job = copy.deepcopy(tiny_job)
    job["train"] |= {"dropout": 0.0, "distill": distill, "steps": 2, "learning_rate": 1e-3}
    job["teacher"] |= {"dropout": 0.0, "epochs": 0.5}
    found, losses = [], []
    for workers in (1, 2):
        job["train"]["workers"] = workers
        job["train"]["cpus"] = 1
        place = Workplace(parse_job(job), tmp_path / f"w{workers}")
        _teacher(place, Progress(enabled=False))
        _supernet(place, Progress(enabled=False))
        found.append(load_tensors(place.run_dir / "supernet" / "network.safetensors"))
        rows = read_table(place.run_dir, "steps").sort_values(["method", "step"])
        losses.append(rows["loss"].to_numpy())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, tensor in found[0].items():
        assert torch.allclose(tensor, found[1][name], atol=1e-5), name

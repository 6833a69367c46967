"""Data-parallel training is the same training."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.jobfile import parse_job
from raycomp.runtime.checkpoint import load_tensors
from raycomp.runtime.progress import Progress
from raycomp.runtime.run import _supernet, _teacher
from raycomp.runtime.workplace import Workplace
from raycomp.tables import read_table


@pytest.mark.timeout(600)
@pytest.mark.parametrize("distill", ["none", "hidden"])
def test_one_and_two_workers_agree(tiny_job: dict[str, Any], tmp_path: Path, distill: str) -> None:
    """To 1e-5, without dropout, on the same global batches: losses, teacher and super-network."""
    job = copy.deepcopy(tiny_job)
    job["train"] |= {"dropout": 0.0, "distill": distill, "steps": 2, "learning_rate": 1e-4}
    job["teacher"] |= {"dropout": 0.0, "epochs": 0.5, "learning_rate": 1e-4}
    places = []
    for workers in (1, 2):
        job["train"] |= {"workers": workers, "cpus": 1}
        place = Workplace(parse_job(job), tmp_path / f"w{workers}")
        _teacher(place, Progress(enabled=False))
        if places:  # a rounding error of the teacher may swap two neurons of equal importance
            agree(places[0], place, "teacher")
            for part in ("teacher", "supernet"):
                shutil.rmtree(place.run_dir / part, ignore_errors=True)
            shutil.copytree(places[0].run_dir / "teacher", place.run_dir / "teacher")
            (place.run_dir / "supernet").mkdir()
            start = Path("supernet") / "start.safetensors"
            shutil.copy(places[0].run_dir / start, place.run_dir / start)
        _supernet(place, Progress(enabled=False))
        places.append(place)
    agree(places[0], places[1], "supernet")
    losses = [
        read_table(p.run_dir, "steps").sort_values(["method", "step"])["loss"].to_numpy() for p in places
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def agree(one: Workplace, two: Workplace, part: str) -> None:
    first, second = (load_tensors(p.run_dir / part / "network.safetensors") for p in (one, two))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-5), (part, name)

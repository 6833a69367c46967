"""Whole runs on real Ray with GPU workers: both methods, and a run that is killed and resumed."""

from __future__ import annotations

import copy
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.runtime.cluster.connect import start_local_cluster
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.run import run_job
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.faults.conftest import checkpoints, finish, start, steps_done, wait_for

pytestmark = pytest.mark.gpu
CNN = {"layers": 3, "width": 16, "embedding": 8, "epochs": 1, "child_epochs": 1, "batch_size": 32}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    if torch.cuda.is_available():
        start_local_cluster(
            log_to_driver=False, logging_level=logging.ERROR, object_store_memory=256 * 2**20
        )
    yield
    ray.shutdown()


@pytest.fixture
def job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    settings = copy.deepcopy(tiny_job)
    settings["run"] = {"name": "gpu", "methods": ["yoco", "adabert"]}
    settings["train"] |= {"gpus": 1, "precision": "auto"}
    settings["adabert"] = dict(CNN)
    settings["augment"] = {"copies": 2, "candidates": 3}
    settings["finetune"] = {"epochs": 1}
    return settings


def test_a_run_trains_searches_and_deploys(job: dict[str, Any], tmp_path: Path) -> None:
    run_dir = run_job(parse_job(job), tmp_path, Progress(enabled=False))
    rows = read_table(run_dir, "deployments")
    assert set(rows["method"]) == {"yoco", "adabert"}
    sub_networks = rows[rows["method"] == "yoco"]
    assert sub_networks["feasible"].all()
    assert (sub_networks["cost"] <= sub_networks["limit"]).all()
    assert (rows["parity"] < 1e-5).all()
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert ("bf16" if native else "fp32") in set(read_table(run_dir, "evaluations")["precision"])


def test_more_workers_than_gpus_are_refused(job: dict[str, Any], tmp_path: Path) -> None:
    job["train"]["workers"] = torch.cuda.device_count() + 1
    with pytest.raises(UserError, match="GPUs"):
        run_job(parse_job(job), tmp_path, Progress(enabled=False))


@pytest.mark.timeout(900)
def test_a_killed_run_resumes(job: dict[str, Any], tmp_path: Path) -> None:
    # Seven phases of 600 tiny steps: long enough that the training has not ended when it is killed.
    total = 7 * 600
    job["run"] = {"name": "killed"}
    job["train"] |= {"steps": 600, "checkpoint_seconds": 1.0}
    del job["finetune"]
    process = start(job, tmp_path, tmp_path)
    run_dir = tmp_path / parse_job(job).run_id
    try:
        wait_for(lambda: checkpoints(run_dir, "supernet"), process)
        assert steps_done(run_dir) < total, "the training had ended before the kill"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        finish(start(job, tmp_path, tmp_path))
    except AssertionError as error:
        # The machine with the GPU is gone after the tests, and the files of the run with it.
        traces = [path.read_text() for path in RunLayout(run_dir).errors.glob("*.txt")]
        raise AssertionError("\n\n".join([str(error), *traces])) from None
    steps = read_table(run_dir, "steps")
    assert sorted(steps[steps["method"] == "yoco"]["step"]) == list(range(total))
    assert len(read_table(run_dir, "deployments")) == 2

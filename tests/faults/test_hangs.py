"""A worker that is there and does nothing, and two runs that share a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from tests.faults.conftest import (
    Undisturbed,
    alive,
    checkpoints,
    children,
    finish,
    quiet,
    recovered,
    start,
    steps_done,
    wait_for,
)

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_hung_worker_is_noticed_and_replaced(undisturbed: Undisturbed, tmp_path: Path) -> None:
    job: dict[str, Any] = {**undisturbed.job, "train": {**undisturbed.job["train"], "barrier_seconds": 8}}
    run_dir = tmp_path / parse_job(job).run_id
    assert run_dir.name == undisturbed.run_dir.name  # a time limit changes no result
    process = start(job, tmp_path, tmp_path)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    victims = wait_for(lambda: children(process.pid, b"RayTrainWorker"), process)
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    recovered("hung worker, limit 8 s", process, steps_done, run_dir)
    assert not any(alive(pid) for pid in victims)
    undisturbed.equals(run_dir, finish(process))
    quiet(run_dir)


@pytest.fixture
def shared() -> Iterator[str]:
    """A cluster of one node with four processors."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4, "object_store_memory": 150 * 2**20, "include_dashboard": False,
        },
    )  # fmt: skip
    try:
        yield made.address
    finally:
        made.shutdown()


@pytest.mark.slow
def test_two_runs_of_one_storage_and_one_cluster_do_not_disturb_each_other(
    shared: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    jobs = [{**undisturbed.job, "run": {"name": name}} for name in ("one", "two")]
    began = [start(job, tmp_path, tmp_path, shared) for job in jobs]
    for job, process in zip(jobs, began, strict=True):
        found = finish(process)
        run_dir = tmp_path / parse_job(job).run_id
        undisturbed.equals(run_dir, found)
        assert {d["run"] for d in found["deployments"]} == {run_dir.name}

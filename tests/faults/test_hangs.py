"""A worker that hangs, and two runs that share a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from tests.faults.conftest import (
    ReferenceRun,
    assert_no_writes,
    checkpoints,
    find_processes,
    finish,
    is_alive,
    start,
    steps_done,
    wait_for,
    wait_for_recovery,
)

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_hung_worker_is_noticed_and_replaced(reference: ReferenceRun, tmp_path: Path) -> None:
    train = {**reference.job["train"], "barrier_seconds": 8}
    job: dict[str, Any] = {**reference.job, "train": train}
    run_dir = tmp_path / parse_job(job).run_id
    assert run_dir.name == reference.run_dir.name, "a time limit does not change a run's identity"

    process = start(job, tmp_path, tmp_path)
    wait_for(lambda: len(checkpoints(run_dir, "supernet")) > 0, process)
    workers = wait_for(lambda: find_processes(process.pid, b"RayTrainWorker"), process)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)

    wait_for_recovery("hung worker, limit 8 s", process, steps_done, run_dir)
    assert not any(is_alive(pid) for pid in workers)
    reference.assert_equal(run_dir, finish(process))
    assert_no_writes(run_dir)


@pytest.fixture
def shared_cluster() -> Iterator[str]:
    """A cluster of one node with four CPUs."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 4, "object_store_memory": 150 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_two_runs_on_one_storage_and_one_cluster_do_not_disturb_each_other(
    shared_cluster: str, reference: ReferenceRun, tmp_path: Path
) -> None:
    jobs = [{**reference.job, "run": {"name": name}} for name in ("one", "two")]
    processes = [start(job, tmp_path, tmp_path, shared_cluster) for job in jobs]

    for job, process in zip(jobs, processes, strict=True):
        output = finish(process)
        run_dir = tmp_path / parse_job(job).run_id
        reference.assert_equal(run_dir, output)
        assert {row["run"] for row in output["deployments"]} == {run_dir.name}

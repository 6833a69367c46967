"""Several nodes on one machine: training spreads over them, and a node that dies is survived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["RAY_AUTH_MODE"] = "disabled"

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.runtime.cluster import capacity
from raycomp.runtime.cluster import connect as ours
from raycomp.runtime.cluster import file_server as home
from raycomp.runtime.cluster.actor_filesystem import find_file_server
from raycomp.runtime.cluster.file_server import serve_run_files
from raycomp.runtime.cluster.progress import Progress
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.integration.test_cli import toml

pytestmark = pytest.mark.timeout(900)
STEPS = 40
# A dead node is noticed in about a second instead of a quarter of a minute.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head and two nodes with one processor each."""
    from ray.cluster_utils import Cluster

    store = {"num_cpus": 1, "object_store_memory": 120 * 2**20}
    made = Cluster(
        initialize_head=True,
        head_node_args={**store, "_system_config": QUICK, "include_dashboard": False},
    )
    try:
        for _ in range(2):
            made.add_node(**store)
        made.wait_for_nodes()
        yield made
    finally:
        if ours.ray.is_initialized():
            ours.ray.shutdown()
        made.shutdown()


@pytest.fixture
def job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    tiny_job["train"] |= {
        "steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 0.01, "workers": 2, "cpus": 1,
    }  # fmt: skip
    return tiny_job


def start(job: dict[str, Any], folder: Path, storage: Path, address: str) -> subprocess.Popen[str]:
    path = folder / "job.toml"
    path.write_text(toml(job))
    given = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": address}
    return subprocess.Popen(
        [sys.executable, "-m", "raycomp.cli", "run", str(path), "--storage", str(storage), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out[out.index("{") :])
    return found


def trainers(raylet: int) -> list[int]:
    """Process ids of Ray Train's workers that a node's raylet has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == raylet and b"RayTrainWorker" in command:
            found.append(int(path.name))
    return found


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


@pytest.mark.slow
def test_a_node_that_dies_is_survived_with_the_same_result(
    nodes: Any, job: dict[str, Any], tmp_path: Path
) -> None:
    run_id = parse_job(job).run_id
    whole = finish(start(job, tmp_path, tmp_path / "whole", nodes.address))
    process = start(job, tmp_path, tmp_path / "cut", nodes.address)
    run_dir = tmp_path / "cut" / run_id
    deadline = time.monotonic() + 200
    victim: Any = None
    while victim is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no worker of the super-network was seen on a node"
        if list((run_dir / "train" / "supernet").glob("checkpoint_*/")):
            victim = next((n for n in nodes.worker_nodes if trainers(raylet(n))), None)
        time.sleep(0.05)
    lost = trainers(raylet(victim))
    nodes.remove_node(victim, allow_graceful=False)
    while any(Path(f"/proc/{pid}").exists() for pid in lost):
        assert time.monotonic() < deadline, "the killed node's workers are still there"
        time.sleep(0.05)
    found = finish(process)
    steps = read_table(run_dir, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))
    one, two = (
        load_tensors(tmp_path / part / run_id / "supernet" / "network.safetensors")
        for part in ("whole", "cut")
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    rows = read_table(run_dir, "evaluations")
    assert not rows.duplicated(["weights_id", "arch_id", "split", "precision", "metric"]).any()
    keys = ("budget", "arch_id", "validation")
    assert [[d[k] for k in keys] for d in found["deployments"]] == [
        [d[k] for k in keys] for d in whole["deployments"]
    ]


def test_a_folder_that_all_nodes_see_is_used_as_it_is_and_that_of_another_machine_is_refused(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that do not see it are in test_apart.py."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    ours.connect()
    with serve_run_files(tmp_path, Progress(enabled=False)):
        assert find_file_server(tmp_path.name) is None
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(home, "read_marker", _blind)
    with (
        pytest.raises(UserError, match="which is no node of the cluster"),
        serve_run_files(tmp_path, Progress(enabled=False)),
    ):
        pass


def test_workers_are_sized_by_nodes_not_by_the_cluster(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three nodes of one processor have no place for a worker of two, which would wait for ever."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    nodes.add_node(num_cpus=4, object_store_memory=120 * 2**20)
    nodes.wait_for_nodes()
    ours.connect()
    assert [capacity.count_worker_slots(c) for c in (1, 2, 3, 5)] == [7, 2, 1, 0]
    assert [capacity.share_cpus(n) for n in (1, 2, 3, 4, 7, 8)] == [4, 2, 1, 1, 1, 1]
    assert capacity.count_worker_slots(1, 1.0) == 0


def _blind(path: str) -> str:
    return ""

"""A cluster of several nodes: one that dies, a shared run directory, and the size of workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Ray reads it once, when it is imported.
os.environ["RAY_AUTH_MODE"] = "disabled"

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.runtime.cluster import capacity, connect, file_server
from raycomp.runtime.cluster.actor_filesystem import find_file_server
from raycomp.runtime.cluster.file_server import serve_run_files
from raycomp.runtime.cluster.progress import Progress
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.faults.conftest import assert_equal_tensors, checkpoints, finish, start, wait_for

pytestmark = pytest.mark.timeout(900)
STEPS = 40

# A dead node is noticed after about one second instead of 15.
FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    # A killed node refuses the connection at once. A live one may answer late on a busy machine.
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 3,
}
NODE = {"num_cpus": 1, "object_store_memory": 120 * 2**20}


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head node and two other nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "_system_config": FAST_HEALTH_CHECKS, "include_dashboard": False},
    )
    try:
        for _ in range(2):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        if connect.ray.is_initialized():
            connect.ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    tiny_job["train"] |= {
        "steps": [0, 0, 0, 0, 0, 0, STEPS],
        "checkpoint_seconds": 0.01,
        "workers": 2,
        "cpus": 1,
    }
    return tiny_job


def train_workers(raylet: int) -> list[int]:
    """Return the process ids of Ray Train's workers on a node."""
    return find_processes_of(raylet, b"RayTrainWorker")


def find_processes_of(raylet: int, title: bytes) -> list[int]:
    """Return the processes of a node whose title has a word, such as the class of an actor.

    Args:
        raylet: Process id of the node's raylet, which starts its workers.
        title: The word.
    """
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == raylet and title in command:
            pids.append(int(path.name))
    return pids


def raylet_of(node: Any) -> int:
    """Return the process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def wait_until_gone(pids: list[int], seconds: float) -> None:
    """Wait until some processes have ended."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a killed process still runs"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_on_a_node_that_dies_has_the_same_result(
    nodes: Any, job: dict[str, Any], tmp_path: Path
) -> None:
    run_id = parse_job(job).run_id
    reference = RunLayout(tmp_path / "reference" / run_id)
    layout = RunLayout(tmp_path / "killed" / run_id)
    reference_output = finish(start(job, tmp_path, tmp_path / "reference", nodes.address))

    process = start(job, tmp_path, tmp_path / "killed", nodes.address)
    deadline = time.monotonic() + 200
    victim: Any = None
    while victim is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no worker of the super-network was on another node"
        if checkpoints(layout.path, "supernet"):
            victim = next((n for n in nodes.worker_nodes if train_workers(raylet_of(n))), None)
        time.sleep(0.05)

    killed_workers = train_workers(raylet_of(victim))
    nodes.remove_node(victim, allow_graceful=False)
    wait_until_gone(killed_workers, deadline - time.monotonic())
    output = finish(process)

    steps = read_table(layout.path, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))
    assert_equal_tensors(
        reference.method("yoco").supernet_network, layout.method("yoco").supernet_network
    )

    rows = read_table(layout.path, "evaluations")
    assert not rows.duplicated(["weights_id", "arch_id", "split", "precision", "metric"]).any()

    keys = ("budget", "arch_id", "validation")
    models = [[row[key] for key in keys] for row in output["deployments"]]
    assert models == [[row[key] for key in keys] for row in reference_output["deployments"]]


@pytest.mark.slow
def test_a_search_continues_without_a_node_that_dies(
    nodes: Any, job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """The cluster has a fixed size: the evaluators of that node can never start again."""
    job["model"]["name"] = str(tuned_model)
    job["train"] |= {"steps": 1, "workers": 1}
    job["search"] = {"evaluations": 300, "batch": 8}
    run_id = parse_job(job).run_id
    reference_output = finish(start(job, tmp_path, tmp_path / "reference", nodes.address))

    process = start(job, tmp_path, tmp_path / "killed", nodes.address)
    layout = RunLayout(tmp_path / "killed" / run_id)

    def find_victim() -> Any:
        for node in nodes.worker_nodes:
            if find_processes_of(raylet_of(node), b"ray::Evaluator.evaluate"):
                return node
        return None

    victim = wait_for(find_victim, process)
    evaluators = find_processes_of(raylet_of(victim), b"ray::Evaluator")
    nodes.remove_node(victim, allow_graceful=False)
    wait_until_gone(evaluators, 60)
    assert not list(layout.method("yoco").search_outcomes()), "the search had ended before the kill"
    output = finish(process)

    rows = read_table(layout.path, "evaluations")
    assert not rows.duplicated(["weights_id", "arch_id", "split", "precision", "metric"]).any()
    keys = ("budget", "arch_id", "selection", "validation")
    models = [[row[key] for key in keys] for row in output["deployments"]]
    assert models == [[row[key] for key in keys] for row in reference_output["deployments"]]


def test_a_directory_that_all_nodes_see_needs_no_file_server(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that do not see it are in test_apart.py."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    connect.connect()
    with serve_run_files(tmp_path, Progress(enabled=False)):
        assert find_file_server(tmp_path.name) is None
        assert not list(tmp_path.iterdir())

    # A driver outside of the cluster is refused.
    monkeypatch.setattr(file_server, "read_marker", _see_nothing)
    with (
        pytest.raises(UserError, match="This machine is not a node of the Ray cluster"),
        serve_run_files(tmp_path, Progress(enabled=False)),
    ):
        pass


def _see_nothing(path: str) -> str:
    return ""


def test_the_size_of_workers_depends_on_single_nodes(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three nodes of one CPU have no place for a worker of two CPUs, which would wait forever."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    nodes.add_node(num_cpus=4, object_store_memory=120 * 2**20)
    nodes.wait_for_nodes()
    connect.connect()

    assert [capacity.count_worker_slots(cpus) for cpus in (1, 2, 3, 5)] == [7, 2, 1, 0]
    assert [capacity.share_cpus(count) for count in (1, 2, 3, 4, 7, 8)] == [4, 2, 1, 1, 1, 1]
    assert capacity.count_worker_slots(1, 1.0) == 0

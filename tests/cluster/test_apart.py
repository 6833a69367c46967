"""Nodes that share no directory: neither the run's, nor the model's, nor the data's.

The nodes are on this machine, in mount namespaces of their own, in which an empty disk covers everything
that the test writes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
import pytest

from raycomp.config.loader import parse_job
from raycomp.runtime.cluster import connect
from raycomp.runtime.cluster.connect import LOCAL_SETTINGS
from raycomp.storage.layout import RunLayout
from raycomp.storage.remote import work_folder
from raycomp.storage.tables import read_table
from tests.cluster.conftest import free_ports
from tests.cluster.test_nodes import train_workers, wait_until_gone
from tests.faults.conftest import assert_equal_tensors, checkpoints, finish, wait_for
from tests.integration.test_cli import toml

pytestmark = pytest.mark.timeout(600)
STORE_BYTES = 120 * 2**20
STEPS = 150
COVER_SCRIPT = 'mount -t tmpfs tmpfs "$1" && mkdir -p "$RAYCOMP_WORK" && shift && exec "$@"'


class SeparateNodes(NamedTuple):
    """A cluster whose nodes see no directory of this test.

    Attributes:
        address: Address of the cluster.
        raylets: Process ids of the raylets of its two nodes.
    """

    address: str
    raylets: list[int]


def with_covered_folder(folder: Path, *command: str) -> list[str]:
    """Return a command for which an empty disk covers a directory, also for its child processes."""
    return ["unshare", "--mount", "sh", "-c", COVER_SCRIPT, "sh", str(folder), *command]


@pytest.fixture
def separate_nodes(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SeparateNodes]:
    """A head node without CPUs, and two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    hidden = tmp_path_factory.getbasetemp()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "RAYCOMP_WORK": str(hidden / "work"),
        # There is no dashboard that Ray could wait for.
        **LOCAL_SETTINGS,
    }
    probe = subprocess.run(
        with_covered_folder(hidden, "true"), env=environment, capture_output=True, check=False
    )
    if os.geteuid() or probe.returncode:
        pytest.skip("a mount namespace is not allowed here")

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    processes: list[subprocess.Popen[bytes]] = []
    log = (tmp_path_factory.mktemp("log") / "nodes").open("ab")
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        connect.connect()
        # One after the other: two nodes that start at the same time disturb each other.
        for num_nodes in (2, 3):
            process = start_node(cluster.address, hidden, environment, log)
            processes.append(process)
            wait_for_nodes(num_nodes, process, Path(log.name))
        connect.ray.shutdown()
        yield SeparateNodes(cluster.address, find_raylets(process.pid for process in processes))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
        connect.ray.shutdown()
        cluster.shutdown()


def start_node(
    address: str, hidden: Path, environment: dict[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a node that does not see a directory."""
    agent_port, agent_grpc_port, metrics_port = free_ports(3)
    command = with_covered_folder(
        hidden,
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={address}",
        "--block",
        "--num-cpus=1",
        f"--object-store-memory={STORE_BYTES}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--dashboard-agent-grpc-port={agent_grpc_port}",
        f"--metrics-export-port={metrics_port}",
        "--disable-usage-stats",
    )
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_for_nodes(num_nodes: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a cluster has some nodes, of which `process` starts the last one."""
    deadline = time.monotonic() + 90
    while sum(node["Alive"] for node in connect.ray.nodes()) < num_nodes:
        assert time.monotonic() < deadline, "the node did not start"
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)


def find_raylets(groups: Iterable[int]) -> list[int]:
    """Return the process ids of the raylets that some `ray start --block` have started."""
    sessions = set(groups)
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "comm").read_text().strip()
            session = int((path / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except OSError:
            continue
        if name == "raylet" and session in sessions:
            pids.append(int(path.name))
    return pids


@pytest.fixture
def job(tiny_job: dict[str, Any]) -> dict[str, Any]:
    tiny_job["run"] = {"name": "apart", "methods": ["yoco", "adabert"]}
    tiny_job["train"] |= {
        "steps": [0, 0, 0, 0, 0, 0, 30],
        "workers": 2,
        "cpus": 1,
        "checkpoint_seconds": 0.01,
    }
    tiny_job["adabert"] = {
        "layers": 2, "width": 16, "embedding": 8, "epochs": 1, "child_epochs": 1, "batch_size": 32,
    }  # fmt: skip
    tiny_job["augment"] = {"copies": 1, "candidates": 3}
    tiny_job["finetune"] = {"epochs": 1}
    return tiny_job


def start_on(address: str, job: dict[str, Any], folder: Path, storage: str) -> subprocess.Popen[str]:
    """Start a run with a work directory of its own.

    Args:
        address: Address of the cluster. If empty, the run starts a cluster on this machine.
        job: The job, as its file has it.
        folder: Directory for the job file and the work directory.
        storage: Directory of the runs, or a URL.
    """
    folder.mkdir(exist_ok=True)
    path = folder / "job.toml"
    path.write_text(toml(job))

    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAYCOMP_WORK": str(folder / "work"),
    }
    if address:
        environment |= {"RAY_ADDRESS": address, **LOCAL_SETTINGS}

    command = [sys.executable, "-m", "raycomp.cli", "run", str(path), "--storage", storage, "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def assert_equal_runs(first: Path, second: Path) -> None:
    """Check that two runs have the same weights, steps, scores and deployments."""
    first_layout = RunLayout(first)
    second_layout = RunLayout(second)
    assert_equal_tensors(first_layout.teacher_network, second_layout.teacher_network)
    assert_equal_tensors(
        first_layout.method("yoco").supernet_network, second_layout.method("yoco").supernet_network
    )

    tables = {
        "steps": ["training", "step", "phase", "loss", "p_exploit", "entropy"],
        "evaluations": ["method", "arch_id", "split", "precision", "value", "loss"],
        "deployments": ["method", "budget", "arch_id", "selection", "validation", "params"],
    }
    for table, columns in tables.items():
        frames = [
            read_table(run, table)[columns].sort_values(columns[:3]).reset_index(drop=True)
            for run in (first, second)
        ]
        pd.testing.assert_frame_equal(*frames, obj=table)


@pytest.mark.slow
@pytest.mark.parametrize("all_stages", [False, True])
def test_nodes_that_share_no_directory_run_a_job_with_a_url_as_storage(
    separate_nodes: SeparateNodes, job: dict[str, Any], tmp_path: Path, all_stages: bool
) -> None:
    """Rows and weights are those of one machine. All stages: with fine-tuning and a sweep of CNNs."""
    if not all_stages:
        job["run"]["methods"] = ["yoco"]
        del job["finetune"]
    # Two seeds make the sweep use Ray Tune.
    job["adabert"]["seeds"] = [0, 1]
    run_id = parse_job(job).run_id
    bucket = tmp_path / "bucket"

    output = finish(start_on(separate_nodes.address, job, tmp_path / "apart", bucket.as_uri()))
    students = {"beta4-gamma0_8-k2"} if all_stages else set()
    assert {row["budget"] for row in output["deployments"]} == {"half", "third"} | students

    finish(start_on("", job, tmp_path / "here", str(tmp_path / "runs")))
    assert_equal_runs(bucket / run_id, tmp_path / "runs" / run_id)

    num_finetuned = len(list(RunLayout(bucket / run_id).finetune.glob("*.json")))
    assert num_finetuned == (2 if all_stages else 0)
    assert not [path for path in bucket.rglob("train/*/checkpoint*/*") if path.is_file()]


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_cost_one_checkpoint_at_most(
    separate_nodes: SeparateNodes,
    job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, raylets = separate_nodes
    job["run"]["methods"] = ["yoco"]
    job["train"]["steps"][-1] = STEPS
    run_id = parse_job(job).run_id
    bucket = (tmp_path / "bucket").as_uri()
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "apart" / "work"))
    work_dir = work_folder(bucket) / run_id

    def workers() -> list[int]:
        return [pid for raylet in raylets for pid in train_workers(raylet)]

    # Ray Train replaces a killed worker.
    process = start_on(address, job, tmp_path / "apart", bucket)
    wait_for(lambda: checkpoints(work_dir, "supernet"), process)
    killed_workers = workers()
    os.kill(killed_workers[0], signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in killed_workers), process)
    wait_for(workers, process)

    # After a killed driver the same command resumes.
    before = set(checkpoints(work_dir, "supernet"))
    wait_for(lambda: set(checkpoints(work_dir, "supernet")) - before, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_gone(workers(), 60)
    finish(start_on(address, job, tmp_path / "apart", bucket))

    finish(start_on("", job, tmp_path / "here", str(tmp_path / "runs")))
    assert_equal_runs(tmp_path / "bucket" / run_id, tmp_path / "runs" / run_id)
    steps = read_table(tmp_path / "bucket" / run_id, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))

"""Nodes that share no folder: neither the run's, nor the model's, nor the data's.

The nodes are of this machine, in mount namespaces of their own, where an empty disk covers all that the
test writes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.runtime.cluster import connect as ours
from raycomp.storage.remote import work_folder
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.cluster.conftest import free_ports
from tests.cluster.test_nodes import finish, trainers
from tests.faults.conftest import wait_for
from tests.integration.test_cli import toml

pytestmark = pytest.mark.timeout(600)
STORE = 120 * 2**20
STEPS = 150
COVERED = 'mount -t tmpfs tmpfs "$1" && mkdir -p "$RAYCOMP_WORK" && shift && exec "$@"'


def covered(folder: Path, *command: str) -> list[str]:
    """Return a command whose process and children find an empty disk in place of a folder."""
    return ["unshare", "--mount", "sh", "-c", COVERED, "sh", str(folder), *command]


@pytest.fixture
def apart(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[int]]]:
    """A head without processors, and two nodes of one processor that see nothing of this session's.

    Gives its address, and the process ids of the two nodes' raylets.
    """
    from ray.cluster_utils import Cluster

    hidden = tmp_path_factory.getbasetemp()
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    env |= {
        "RAYCOMP_WORK": str(hidden / "work"),
        **ours.LOCAL_SETTINGS,
    }  # LOCAL: there is no dashboard to wait for
    tried = subprocess.run(covered(hidden, "true"), env=env, capture_output=True, check=False)
    if os.geteuid() or tried.returncode:
        pytest.skip("a mount namespace is not allowed here")
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    ray = str(Path(sys.executable).with_name("ray"))
    nodes = []
    log = (tmp_path_factory.mktemp("log") / "nodes").open("a+")
    try:
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        ours.connect()
        for count in (2, 3):  # one after the other: two that start at once get in each other's way
            agent, agent_grpc, metrics = free_ports(3)
            command = covered(
                hidden, ray, "start", f"--address={made.address}", "--num-cpus=1", "--block",
                f"--object-store-memory={STORE}", f"--dashboard-agent-listen-port={agent}",
                f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}",
                "--disable-usage-stats",
            )  # fmt: skip
            node = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            nodes.append(node)
            deadline = time.monotonic() + 90
            while sum(n["Alive"] for n in ours.ray.nodes()) < count:
                assert time.monotonic() < deadline, "the node did not start"
                assert node.poll() is None, Path(log.name).read_text()
                time.sleep(0.2)
        ours.ray.shutdown()
        yield made.address, raylets(n.pid for n in nodes)
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        log.close()
        ours.ray.shutdown()
        made.shutdown()


def raylets(groups: Any) -> list[int]:
    """Process ids of the raylets that some `ray start --block` have started."""
    wanted, found = set(groups), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "comm").read_text().strip()
            session = int((path / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except OSError:
            continue
        if name == "raylet" and session in wanted:
            found.append(int(path.name))
    return found


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


def start(job: dict[str, Any], folder: Path, storage: str, address: str) -> subprocess.Popen[str]:
    path = folder / "job.toml"
    path.write_text(toml(job))
    given = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    given |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAYCOMP_WORK": str(folder / "work")}
    given |= {"RAY_ADDRESS": address, **ours.LOCAL_SETTINGS} if address else {}
    return subprocess.Popen(
        [sys.executable, "-m", "raycomp.cli", "run", str(path), "--storage", storage, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given, start_new_session=True,
    )  # fmt: skip


def equal(one: Path, two: Path) -> None:
    """Check that two runs have the same weights, and the same rows of what was chosen and scored."""
    for name in ("teacher/network", "supernet/network"):
        ours, others = (load_tensors(run / f"{name}.safetensors") for run in (one, two))
        assert all(torch.equal(ours[k], others[k]) for k in ours), name
    steps = ["phase", "step", "loss", "p_exploit", "entropy"]
    scores = ["method", "arch_id", "split", "precision", "value", "loss"]
    chosen = ["method", "budget", "arch_id", "selection", "validation", "params"]
    for table, columns in (("steps", steps), ("evaluations", scores), ("deployments", chosen)):
        first, second = (
            read_table(run, table)[columns].sort_values(columns[:3]).reset_index(drop=True)
            for run in (one, two)
        )
        pd.testing.assert_frame_equal(first, second, obj=table)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nodes_that_share_no_folder_run_a_job_whose_storage_is_a_url(
    apart: tuple[str, list[int]], job: dict[str, Any], tmp_path: Path, whole: bool
) -> None:
    """With the same rows and weights as on one machine; whole: fine-tuning too, and a sweep of CNNs."""
    if not whole:
        job["run"]["methods"] = ["yoco"]
        del job["finetune"]
    job["adabert"]["seeds"] = [0, 1]  # a sweep, by Ray Tune
    run_id = parse_job(job).run_id
    for name in ("apart", "here"):
        (tmp_path / name).mkdir()
    bucket = tmp_path / "bucket"
    found = finish(start(job, tmp_path / "apart", bucket.as_uri(), apart[0]))
    students = {"beta4-gamma0_8-k2"} if whole else set()
    assert {d["budget"] for d in found["deployments"]} == {"half", "third"} | students
    finish(start(job, tmp_path / "here", str(tmp_path / "runs"), ""))
    equal(bucket / run_id, tmp_path / "runs" / run_id)
    assert len(list((bucket / run_id / "finetune").glob("*.json"))) == (2 if whole else 0)
    assert not [p for p in bucket.rglob("train/*/checkpoint*/*") if p.is_file()]


@pytest.mark.slow
def test_a_worker_and_a_driver_killed_there_cost_a_checkpoint_at_most(
    apart: tuple[str, list[int]],
    job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First a worker, which Ray Train replaces; then the driver, and the same command again."""
    address, nodes = apart
    job["run"]["methods"] = ["yoco"]
    job["train"]["steps"][-1] = STEPS
    run_id = parse_job(job).run_id
    for name in ("apart", "here"):
        (tmp_path / name).mkdir()
    bucket = (tmp_path / "bucket").as_uri()
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "apart" / "work"))
    checkpoints = work_folder(bucket) / run_id / "train" / "supernet"
    process = start(job, tmp_path / "apart", bucket, address)
    wait_for(lambda: list(checkpoints.glob("checkpoint_*/")), process)
    lost = [pid for node in nodes for pid in trainers(node)]
    os.kill(lost[0], signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in lost), process)
    wait_for(lambda: [pid for node in nodes for pid in trainers(node)], process)
    before = {p.name for p in checkpoints.glob("checkpoint_*/")}
    wait_for(lambda: {p.name for p in checkpoints.glob("checkpoint_*/")} - before, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    left = [pid for node in nodes for pid in trainers(node)]
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < deadline, "the killed driver's workers are still there"
        time.sleep(0.1)
    finish(start(job, tmp_path / "apart", bucket, address))
    finish(start(job, tmp_path / "here", str(tmp_path / "runs"), ""))
    equal(tmp_path / "bucket" / run_id, tmp_path / "runs" / run_id)
    steps = read_table(tmp_path / "bucket" / run_id, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))

"""Training with as many workers as there is room for: a node joins, a node leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.runtime.cluster import connect as ours
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.cluster.test_nodes import QUICK, finish, raylet, start, trainers
from tests.faults.conftest import steps_done, wait_for

pytestmark = pytest.mark.timeout(600)
NODE = {"num_cpus": 1, "object_store_memory": 120 * 2**20}
STEPS = 4000


@pytest.fixture
def growing() -> Iterator[Any]:
    """A head without processors, and one node of one."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 0, "_system_config": QUICK, "include_dashboard": False},
    )
    try:
        made.add_node(**NODE)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
def test_a_node_that_joins_is_used_and_one_that_leaves_is_done_without(
    growing: Any,
    tiny_job: dict[str, Any],
    tuned_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in ours.LOCAL_SETTINGS.items():  # there is no dashboard to wait for
        monkeypatch.setenv(key, value)
    tiny_job["model"]["name"] = str(tuned_model)  # a teacher that needs no training
    tiny_job["train"] |= {
        "steps": [0, 0, 0, 0, 0, 0, STEPS], "checkpoint_seconds": 1.0, "workers": 2, "min_workers": 1,
        "cpus": 1, "learning_rate": 1e-5, "mode": "explore",  # theta would follow the rounding
    }  # fmt: skip
    run_id = parse_job(tiny_job).run_id
    run_dir = tmp_path / "runs" / run_id
    first = growing.worker_nodes.copy().pop()
    process = start(tiny_job, tmp_path, tmp_path / "runs", growing.address)
    wait_for(lambda: list((run_dir / "train" / "supernet").glob("checkpoint_*/")), process)
    assert len(trainers(raylet(first))) == 1
    second = growing.add_node(**NODE)
    wait_for(lambda: trainers(raylet(second)) and trainers(raylet(first)), process)
    assert steps_done(run_dir) < STEPS
    before = steps_done(run_dir)
    wait_for(lambda: steps_done(run_dir) > before, process)  # the two of them get on
    lost = trainers(raylet(first))
    growing.remove_node(first, allow_graceful=False)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in lost):
        assert time.monotonic() < deadline, "the node's workers are still there"
        time.sleep(0.05)
    assert steps_done(run_dir) < STEPS, "it ended before the node was gone"
    found = finish(process)
    assert {d["budget"] for d in found["deployments"]} == {"half", "third"}
    steps = read_table(run_dir, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))
    alone = tmp_path / "alone"
    alone.mkdir()
    tiny_job["train"] |= {"workers": 1, "min_workers": 0}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert parse_job(tiny_job).run_id == run_id, "how many work on it is no part of what a run is"
    finish(start(tiny_job, tmp_path, alone, ""))
    one, two = (
        load_tensors(root / run_id / "supernet" / "network.safetensors")
        for root in (tmp_path / "runs", alone)
    )
    for name, weights in one.items():
        torch.testing.assert_close(weights, two[name], rtol=0, atol=1e-3)
    start_weights = load_tensors(alone / run_id / "supernet" / "start.safetensors")
    assert max(float((w - start_weights[n]).abs().max()) for n, w in one.items()) > 1e-2, "it was trained"

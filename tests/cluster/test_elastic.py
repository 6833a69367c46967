"""Elastic training: it uses a node that joins, and continues without a node that leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.runtime.cluster.connect import LOCAL_SETTINGS
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from raycomp.storage.tensors import load_tensors
from tests.cluster.test_nodes import (
    FAST_HEALTH_CHECKS,
    NODE,
    raylet_of,
    train_workers,
    wait_until_gone,
)
from tests.faults.conftest import checkpoints, finish, start, steps_done, wait_for

pytestmark = pytest.mark.timeout(600)
STEPS = 4000


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head node without CPUs, and one node with one CPU."""
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "_system_config": FAST_HEALTH_CHECKS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def job(tiny_job: dict[str, Any], tuned_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # There is no dashboard that Ray could wait for.
    for key, value in LOCAL_SETTINGS.items():
        monkeypatch.setenv(key, value)

    # A teacher that needs no training.
    tiny_job["model"]["name"] = str(tuned_model)
    tiny_job["train"] |= {
        "steps": [0, 0, 0, 0, 0, 0, STEPS],
        "checkpoint_seconds": 1.0,
        "workers": 2,
        "min_workers": 1,
        "cpus": 1,
        "learning_rate": 1e-5,
        # Theta would depend on the rounding of sums, which the number of ranks changes.
        "mode": "explore",
    }
    return tiny_job


@pytest.mark.slow
def test_training_uses_a_node_that_joins_and_continues_without_one_that_leaves(
    cluster: Any, job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = parse_job(job).run_id
    elastic = RunLayout(tmp_path / "elastic" / run_id)
    fixed = RunLayout(tmp_path / "fixed" / run_id)

    # One node.
    first_node = cluster.worker_nodes.copy().pop()
    process = start(job, tmp_path, tmp_path / "elastic", cluster.address)
    wait_for(lambda: checkpoints(elastic.path, "supernet"), process)
    assert len(train_workers(raylet_of(first_node))) == 1

    # A second node joins, and both train.
    second_node = cluster.add_node(**NODE)
    wait_for(
        lambda: train_workers(raylet_of(second_node)) and train_workers(raylet_of(first_node)), process
    )
    step = steps_done(elastic.path)
    assert step < STEPS
    wait_for(lambda: steps_done(elastic.path) > step, process)

    # The first node leaves.
    killed_workers = train_workers(raylet_of(first_node))
    cluster.remove_node(first_node, allow_graceful=False)
    wait_until_gone(killed_workers, 60)
    assert steps_done(elastic.path) < STEPS, "training had ended before the node was gone"

    output = finish(process)
    assert {row["budget"] for row in output["deployments"]} == {"half", "third"}
    steps = read_table(elastic.path, "steps")
    assert sorted(steps.loc[steps["method"] == "yoco", "step"]) == list(range(STEPS))

    # The same job with one worker differs by rounding errors only.
    job["train"] |= {"workers": 1, "min_workers": 0}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert parse_job(job).run_id == run_id, "the number of workers does not change a run's identity"
    finish(start(job, tmp_path, tmp_path / "fixed"))

    weights = load_tensors(elastic.method("yoco").supernet_network)
    expected = load_tensors(fixed.method("yoco").supernet_network)
    initial = load_tensors(fixed.method("yoco").supernet_start)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-3)
    largest_change = max(float((w - initial[name]).abs().max()) for name, w in weights.items())
    assert largest_change > 1e-2, "the network was trained"

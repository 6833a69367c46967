"""The profile of a node with a resource: where the call runs, with how many CPUs, and what it returns."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.device_table import Conditions, DeviceTable
from raycomp.encoder.layers import EncoderConfig
from raycomp.errors import UserError
from raycomp.runtime.cluster import node_tasks, waiting
from raycomp.runtime.pipeline import device_profiles
from raycomp.runtime.pipeline.device_profiles import ProfileTask, measure_task
from tests.unit.invented_device import InventedBench

CONFIG = EncoderConfig(
    vocab_size=30, hidden_size=16, embedding_size=16, head_size=8, layer_heads=(2,), layer_ffn=(32,),
    max_position_embeddings=20,
)  # fmt: skip
NETWORKS = tuple(Architecture(d, (h,) * d, (32,) * d) for d in (1, 2) for h in (1, 2))
TASK = ProfileTask(CONFIG, Conditions("onnxruntime-int8", 1, 1, (16,)), ((1, 32), (2, 32)), NETWORKS, ())


class InventedCluster:
    """Stands for ray: nodes with resources, and calls that run here. It records where they would run."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = nodes
        self.free_after = 0
        self.options_of_calls: list[dict[str, Any]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "NodeID": f"{number:056x}", "Resources": resources}
            for number, resources in enumerate(self._nodes)
        ]

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        is_free = self.free_after <= 0
        self.free_after -= 1
        return (references, []) if is_free else ([], references)

    def available_resources(self) -> dict[str, float]:
        return {}

    def remote(self, function: Callable[[Any], Any]) -> Any:
        def options(**values: Any) -> Any:
            self.options_of_calls.append(values)
            return SimpleNamespace(remote=function)

        return SimpleNamespace(options=options)

    def get(self, result: Any) -> Any:
        return result


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> InventedCluster:
    ray = InventedCluster({"CPU": 64.0}, {"CPU": 2.0, "edge": 1.0})
    monkeypatch.setattr(node_tasks, "ray", ray)
    return ray


def ignore(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("node", [None, "edge"])
def test_a_table_names_the_cpus_that_ran_it(
    cluster: InventedCluster, node: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable: list[int] = []

    class Bench(InventedBench):
        def measure(self, *args: Any) -> Any:
            usable.append(len(os.sched_getaffinity(0)))
            return super().measure(*args)

    monkeypatch.setattr(device_profiles, "NetworkBench", lambda *_: Bench())
    table = measure_task(TASK, node, ignore)

    if hasattr(os, "sched_setaffinity"):
        assert usable == [1]
        assert len(table.machine["pinned_cpus"]) == 1
    if node is None:
        assert cluster.options_of_calls == []
    # The first call waits until the node is free. Both reserve all of it.
    for options in cluster.options_of_calls:
        assert (options["num_cpus"], options["resources"]) == (2, {"edge": 1.0})
        assert int(options["scheduling_strategy"].node_id, 16) == 1
    assert len(cluster.options_of_calls) == (2 if node else 0)
    again = DeviceTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.predict("latency_ms", NETWORKS[-1]) == pytest.approx(InventedBench().time(NETWORKS[-1]))


def test_a_wait_for_the_node_and_its_load_are_said(
    cluster: InventedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    cluster.free_after = 3
    monkeypatch.setattr(waiting, "ray", cluster)
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(device_profiles, "NetworkBench", lambda *_: InventedBench())
    monkeypatch.setattr(device_profiles, "describe_load", lambda: "Other programs use this machine.")
    measure_task(TASK, "edge", ignore, say=lines.append)
    assert lines[0].startswith("The node with the resource 'edge' measures onnxruntime-int8, 1 thread")
    assert "measurement waits for all 2 CPUs of the node with the resource 'edge', 0 s" in lines
    assert lines[-1] == "Warning: the node with the resource 'edge': Other programs use this machine."


def test_openvino_lists_the_cpus_before_threads_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO lists them once: a profile with one thread would leave one thread to all later files."""
    order: list[str] = []

    @contextlib.contextmanager
    def pinned_to_cpus(threads: int) -> Iterator[None]:
        order.append("pinned")
        yield

    monkeypatch.setattr(device_profiles, "pinned_to_cpus", pinned_to_cpus)
    monkeypatch.setattr(device_profiles, "start_openvino", lambda: order.append("started"))
    monkeypatch.setattr(device_profiles, "NetworkBench", lambda *_: InventedBench())
    replace(TASK, conditions=replace(TASK.conditions, runtime="openvino-int8")).measure()
    assert order == ["started", "pinned"]
    TASK.measure()
    assert order[2:] == ["pinned"], "the other runtimes do not need OpenVINO"


def test_a_node_without_enough_cpus_or_without_the_resource_is_named(cluster: InventedCluster) -> None:
    with pytest.raises(UserError, match="has 2 CPUs, and its budget has threads = 4"):
        node_tasks.run_on_node("edge", 4, len, [])
    with pytest.raises(UserError, match=r"No node .* 'phone'.*ray start --resources"):
        node_tasks.run_on_node("phone", 1, len, [])
    assert cluster.options_of_calls == []


def test_a_measurement_that_fails_names_the_node(
    cluster: InventedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(result: Any) -> Any:
        raise ConnectionError("the node is gone")

    monkeypatch.setattr(cluster, "get", get)
    with pytest.raises(UserError, match="The node with the resource 'edge' cannot be measured"):
        node_tasks.run_on_node("edge", 1, len, [])

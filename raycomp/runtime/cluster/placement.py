"""Where tasks and actors run: on the driver node, outside of a trial, or on each of some nodes."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from raycomp.runtime.cluster.connect import ray


def on_driver_node() -> NodeAffinitySchedulingStrategy:
    """Return the strategy of what must run on this process's node, since it writes into the run."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def schedule_outside_trial(shared: bool) -> Any:
    """Return the strategy of a task that drives trainings of its own, started by a trial of Ray Tune.

    It leaves the trial's placement group, in which nothing that it starts would find room.

    Args:
        shared: whether all nodes see what it writes; else it stays on this node.
    """
    return PlacementGroupSchedulingStrategy(placement_group=None) if shared else on_driver_node()


def call_on_nodes(task: Any, nodes: list[str], *args: Any) -> dict[str, Any]:
    """Call a function on each of some nodes; return what it said there, of nodes that are still here."""
    look = ray.remote(num_cpus=0, max_retries=0)(task)
    asked = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[node] = look.options(scheduling_strategy=where).remote(*args)
    said = {}
    for node, answer in asked.items():
        with contextlib.suppress(ray.exceptions.RayError):
            said[node] = ray.get(answer)
    return said

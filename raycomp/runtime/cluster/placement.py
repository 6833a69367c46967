"""Where tasks and actors run: on the driver node, outside of a trial, or on each of some nodes."""

from __future__ import annotations

import contextlib
from typing import Any

from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from raycomp.runtime.cluster.connect import ray

NODE_TIMEOUT_SECONDS = 120.0
"""How long a node may take to start a process and to answer. The driver must not wait without limit."""


def on_driver_node() -> NodeAffinitySchedulingStrategy:
    """Return the scheduling strategy of processes that must write to the run directory itself."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def schedule_outside_trial(is_shared: bool) -> Any:
    """Return the scheduling strategy of a task that a trial of Ray Tune starts to run trainings.

    The task leaves the trial's placement group: the resources of the group are too small for the
    workers that it starts.

    Args:
        is_shared: Whether all nodes see the directory to which the task writes. If not, the task stays on
            this node.
    """
    if is_shared:
        return PlacementGroupSchedulingStrategy(placement_group=None)
    return on_driver_node()


def call_on_nodes(function: Any, nodes: list[str], *args: Any) -> dict[str, Any]:
    """Call a function on each of some nodes.

    Args:
        function: The function.
        nodes: Ray's ids of the nodes.
        args: Arguments of the function.

    Returns:
        Results by node id. A node that has left the cluster, or that does not answer, is not in it.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)

    # All calls are started before the first result is awaited.
    references = {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        references[node] = task.options(scheduling_strategy=strategy).remote(*args)

    results = {}
    for node, reference in references.items():
        # A node may leave the cluster at any moment.
        with contextlib.suppress(ray.exceptions.RayError):
            results[node] = ray.get(reference, timeout=NODE_TIMEOUT_SECONDS)
    return results

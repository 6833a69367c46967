"""One call on a node that carries a resource of the user's, with CPUs of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from raycomp.errors import UserError
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.stack_traces import describe_cause
from raycomp.runtime.cluster.tasks import cancelling

Result = TypeVar("Result")

SHARE = 0.001
"""Part of the node's resource that a call takes. It only chooses the node."""


def require_node(label: str, cpus: int) -> None:
    """Check that a node of the cluster has a resource and enough CPUs.

    Args:
        label: Name of the resource.
        cpus: CPUs that a call needs.

    Raises:
        UserError: The cluster lacks such a node.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    labelled = [resources for resources in nodes if resources.get(label, 0) >= SHARE]
    if not labelled:
        raise UserError(
            f"No node of the cluster has the resource {label!r}, which a budget's setting node asks for. "
            f"Start the node with `ray start --resources='{{\"{label}\": 1}}'`, or leave node out."
        )
    # A call that asks for more CPUs than a node has would wait forever.
    most = max(int(resources.get("CPU", 0)) for resources in labelled)
    if most < cpus:
        raise UserError(
            f"The node with the resource {label!r} has {most} CPUs, and its budget has threads = {cpus}. "
            f"Set threads to at most {most}."
        )


def run_on_node(label: str, cpus: int, function: Callable[[Any], Result], argument: Any) -> Result:
    """Call a function on a node with a resource, and return its result.

    Args:
        label: Name of the resource.
        cpus: CPUs that the call reserves.
        function: Module-level function.
        argument: Its argument.

    Raises:
        UserError: No node has the resource, or the call failed.
    """
    require_node(label, cpus)
    task = ray.remote(function).options(num_cpus=cpus, resources={label: SHARE}, max_retries=1)
    reference = task.remote(argument)
    try:
        with cancelling([reference]):
            result: Result = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"The node with the resource {label!r} cannot be measured: {describe_cause(error)}"
        ) from error
    return result

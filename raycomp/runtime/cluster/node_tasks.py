"""One call on a node that carries a resource of the user's, which it has for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycomp.errors import UserError
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.stack_traces import describe_cause
from raycomp.runtime.cluster.tasks import cancelling
from raycomp.runtime.cluster.waiting import Resources, WaitNotice

Result = TypeVar("Result")


@dataclass(frozen=True)
class WholeNode(Resources):
    """All CPUs of a node with a resource of the user's.

    Attributes:
        label: Name of the resource.
    """

    label: str = ""

    def describe_wait(self, available: dict[str, float]) -> str:
        """Return a phrase such as "all 4 CPUs of the node with the resource 'edge'"."""
        noun = "CPU" if self.cpus == 1 else f"all {self.cpus:g} CPUs"
        return f"{noun} of the node with the resource {self.label!r}"


def require_node(label: str, cpus: int) -> dict[str, Any]:
    """Return a node of the cluster that has a resource and enough CPUs, as Ray lists it.

    Args:
        label: Name of the resource.
        cpus: CPUs that a call needs.

    Raises:
        UserError: The cluster lacks such a node.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    labelled = [node for node in nodes if node["Resources"].get(label, 0) > 0]
    if not labelled:
        raise UserError(
            f"No node of the cluster has the resource {label!r}, which a budget's setting node asks for. "
            f"Start the node with `ray start --resources='{{\"{label}\": 1}}'`, or leave node out."
        )
    # A call that asks for more CPUs than a node has would wait forever.
    node = max(labelled, key=_count_cpus)
    most = _count_cpus(node)
    if most < cpus:
        raise UserError(
            f"The node with the resource {label!r} has {most} CPUs, and its budget has threads = {cpus}. "
            f"Set threads to at most {most}."
        )
    return node


def _count_cpus(node: dict[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0))


def run_on_node(
    label: str,
    cpus: int,
    function: Callable[[Any], Result],
    argument: Any,
    say: Callable[[str], None] = print,
) -> Result:
    """Call a function on a node with a resource, and return its result.

    The call reserves the node's CPUs and its resource as a whole: two measurements on one node, or other
    tasks on its other CPUs, would slow each other.

    Args:
        label: Name of the resource.
        cpus: CPUs that the function uses.
        function: Module-level function.
        argument: Its argument.
        say: Function that shows a line. It says that the call waits for the node.

    Raises:
        UserError: No node has the resource, or the call failed.
    """
    node = require_node(label, cpus)
    options = {
        "num_cpus": _count_cpus(node),
        "resources": {label: node["Resources"][label]},
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        "max_retries": 1,
    }
    running: list[Any] = []

    try:
        with cancelling(running):
            # A task without work shows when the node is free.
            running.append(ray.remote(_do_nothing).options(**options).remote(None))
            notice = WaitNotice("measurement", say)
            while not ray.wait(running, timeout=1)[0]:
                notice.update(WholeNode(_count_cpus(node), label=label))

            running[:] = [ray.remote(function).options(**options).remote(argument)]
            result: Result = ray.get(running[0])
    except ray.exceptions.RayError as error:
        raise UserError(
            f"The node with the resource {label!r} cannot be measured: {describe_cause(error)}"
        ) from error
    return result


def _do_nothing(argument: None) -> None:
    """Show by running that the node is free."""

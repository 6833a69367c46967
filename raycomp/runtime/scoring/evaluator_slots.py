"""How many evaluators fit on each node: by the GPUs, CPUs and memory that its processes may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raycomp.data.batches import tokens_at_once
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import call_on_nodes
from raycomp.storage.machine_limits import MachineLimits, measure_limits

PROCESS_BYTES = int(0.6 * 2**30)
"""Memory of Python, torch and Ray in one process."""

MEMORY_SHARE = 0.8
"""Share of a node's free memory for evaluators. The driver, Ray and the trials need the rest."""


@dataclass(frozen=True)
class EvaluatorNode:
    """Resources of a node for evaluators.

    Attributes:
        node_id: Ray's id of the node.
        cpus: CPUs that Ray and the limits of the node allow.
        gpus: GPUs.
        memory: Free bytes for evaluators; None if unknown.
    """

    node_id: str
    cpus: int
    gpus: float
    memory: int | None

    def count_slots(self, cpus: int, gpus: float, memory: int) -> int:
        """Return how many evaluators of one size fit.

        Args:
            cpus: CPUs of each evaluator, at least 1.
            gpus: GPUs of each evaluator.
            memory: Bytes of each evaluator.
        """
        slots = self.cpus // cpus
        if gpus:
            slots = min(slots, int(self.gpus // gpus))
        if self.memory is not None:
            slots = min(slots, self.memory // memory)
        return slots


@dataclass(frozen=True)
class EvaluatorPlan:
    """Where evaluators start.

    Attributes:
        nodes: Node of each evaluator.
        threads: CPU threads of each evaluator.
        cpus: CPUs of each evaluator; less than its threads if more are requested than fit.
        is_limited: Whether limits of the nodes allow fewer evaluators than Ray's CPUs or GPUs.
    """

    nodes: tuple[str, ...]
    threads: int
    cpus: float
    is_limited: bool


def evaluator_bytes(context: RunContext) -> int:
    """Return the memory of one evaluator: its process, the weights while they load, one batch.

    Args:
        context: Context of the job. Weights and batches on a GPU need at most as much on the host.
    """
    config = context.config
    weights = 4 * int(context.costs.cost("params", context.space.largest()))
    tokens = tokens_at_once(context.job.search.max_tokens, torch.device("cpu"))

    # Architectures that differ late keep the state after each of their common half layers.
    kept_states = 2 * config.num_hidden_layers * config.hidden_size
    scores = max(config.layer_heads) * context.job.task.max_length
    working_set = 4 * config.hidden_size + max(config.layer_ffn) + scores

    return PROCESS_BYTES + 2 * weights + 4 * tokens * (kept_states + working_set)


def read_nodes(ray_nodes: Sequence[Mapping[str, Any]] | None = None) -> list[EvaluatorNode]:
    """Return the nodes of the cluster, with the resources that their processes may use.

    Args:
        ray_nodes: Answer of `ray.nodes()`, by default that of this cluster.
    """
    alive = [node for node in (ray.nodes() if ray_nodes is None else ray_nodes) if node["Alive"]]
    node_ids = [str(node["NodeID"]) for node in alive]
    limits = call_on_nodes(measure_limits, node_ids)
    return [
        evaluator_node(str(node["NodeID"]), node["Resources"], limits.get(str(node["NodeID"])))
        for node in alive
    ]


def evaluator_node(
    node_id: str, resources: Mapping[str, float], limits: MachineLimits | None
) -> EvaluatorNode:
    """Return a node as its resources and limits allow it.

    Args:
        node_id: Ray's id of the node.
        resources: Ray's resources, such as {"CPU": 8.0}.
        limits: What the processes of the node may use; None if it did not report that.
    """
    cpus = int(resources.get("CPU", 0))
    memory = None

    if limits is not None:
        cpus = min(cpus, limits.cpus)
        memory = int(MEMORY_SHARE * limits.memory) if limits.memory is not None else None

    return EvaluatorNode(node_id, cpus, float(resources.get("GPU", 0.0)), memory)


def plan_evaluators(
    nodes: Sequence[EvaluatorNode], *, requested: int, gpus: float, memory: int, ray_slots: int
) -> EvaluatorPlan:
    """Choose number, nodes and threads of the evaluators.

    Args:
        nodes: Nodes of the cluster.
        requested: Number that the job asks for; 0: as many as fit.
        gpus: GPUs of each evaluator.
        memory: Bytes of each evaluator.
        ray_slots: Evaluators that fit by Ray's CPUs and GPUs.
    """
    # Each evaluator is on one node, so the nodes are counted one by one.
    total = sum(node.count_slots(1, gpus, memory) for node in nodes)
    number = requested or max(1, total)

    # The largest size of which enough evaluators fit.
    threads = 1
    for cpus in range(max((node.cpus for node in nodes), default=1), 1, -1):
        if sum(node.count_slots(cpus, gpus, memory) for node in nodes) >= number:
            threads = cpus
            break

    slots = {node.node_id: node.count_slots(threads, gpus, memory) for node in nodes}
    slots = {node_id: count for node_id, count in slots.items() if count}

    if not slots:
        # One evaluator that may be too large is better than a search that never starts.
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory or 0))
        slots = {largest.node_id: 1}

    # Also where more are requested than fit, every node is equally full.
    counts = dict.fromkeys(slots, 0)
    for _ in range(number):
        emptiest = min(counts, key=lambda node_id: (counts[node_id] + 1) / slots[node_id])
        counts[emptiest] += 1

    fullest = max(counts[node_id] / slots[node_id] for node_id in slots)
    return EvaluatorPlan(
        nodes=tuple(node_id for node_id, count in counts.items() for _ in range(count)),
        threads=threads,
        cpus=threads / max(1.0, fullest),
        is_limited=total < ray_slots and not requested,
    )

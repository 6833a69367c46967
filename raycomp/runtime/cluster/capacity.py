"""How many workers fit into the cluster, and how many CPUs each of them can have."""

from __future__ import annotations

from raycomp.runtime.cluster.connect import ray


def count_worker_slots(cpus: float, gpus: float = 0.0) -> int:
    """Return how many workers of one size fit into the cluster. Each worker is on one node.

    Args:
        cpus: CPUs of each worker, more than 0.
        gpus: GPUs of each worker.
    """
    slots = 0
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        # A worker cannot use CPUs of two nodes, so the slots of each node are counted.
        resources = node["Resources"]
        node_slots = resources.get("CPU", 0.0) // cpus
        if gpus:
            node_slots = min(node_slots, resources.get("GPU", 0.0) // gpus)
        slots += int(node_slots)
    return slots


def share_cpus(num_workers: int, gpus: float = 0.0) -> int:
    """Return the most CPUs that each of some workers can have, at least 1.

    Args:
        num_workers: Number of workers.
        gpus: GPUs of each worker.
    """
    node_cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    # From the largest node down: the first size of which enough workers fit is the answer.
    for cpus in range(max(node_cpus, default=1), 0, -1):
        if count_worker_slots(cpus, gpus) >= num_workers:
            return cpus
    return 1


def total_cpus() -> int:
    """Return the number of CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def total_gpus() -> int:
    """Return the number of GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))

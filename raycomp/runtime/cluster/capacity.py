"""How many workers fit into the cluster, and how many CPUs each of them can have."""

from __future__ import annotations

from raycomp.runtime.cluster.connect import ray


def count_worker_slots(cpus: float, gpus: float = 0.0) -> int:
    """Return how many workers of that size the cluster's nodes hold; a worker lies on one node."""
    held = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            room = has.get("CPU", 0.0) // cpus
            held += int(min(room, has.get("GPU", 0.0) // gpus) if gpus else room)
    return held


def share_cpus(count: int, gpus: float = 0.0) -> int:
    """Return the most CPUs that each of `count` workers can have, at least 1."""
    most = max((int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]), default=1)
    return next((c for c in range(most, 0, -1) if count_worker_slots(c, gpus) >= count), 1)


def total_cpus() -> int:
    """Return the CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def total_gpus() -> int:
    """Return the GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))

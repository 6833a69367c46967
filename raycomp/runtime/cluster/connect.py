"""Start or join a Ray cluster, with the settings that raycomp needs."""

from __future__ import annotations

import errno
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Environment variables for Ray. A value that the user has set stays. Submitted jobs get them too
# (`submit`).
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # train.report waits for the next poll of the controller, by default 1.6 s. Shorter costs CPU time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # By default workers run with niceness 15: on two cores a training step took 1.3 times as long.
    "RAY_worker_niceness": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Below `uv run`, Ray would start workers by `uv run` in a copy of the working directory: it would
    # upload data and models, and leave out ignored files.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # oneDNN caches a compiled kernel, and its memory: one of each of the last 1,024 shapes. Slices and
    # sequence lengths have more shapes than that. benchmarks/run_memory.py compares 1,024 and 64 on the
    # demo.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
OWN_CLUSTER = "RAYCOMP_OWN_CLUSTER"

# Environment variables for the processes of a cluster that raycomp starts on this machine.
LOCAL_SETTINGS = {
    # At the end of each training Ray Train waits for a helper that asks the dashboard about its
    # controller. Without a dashboard the helper searches for 40 s, and the training waits for 12 s of
    # them. With an address at which nothing listens it gives up at once.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    # A local machine is not preempted, and the watcher is one more process to start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # For `is_own_cluster` in processes that the cluster starts.
    OWN_CLUSTER: "1",
}
# Before `import ray`, which reads them once.
for _key, _value in RAY_SETTINGS.items():
    os.environ.setdefault(_key, _value)

import ray
from ray._private import ray_constants

from raycomp.errors import UserError, first_line
from raycomp.storage.machine_limits import usable_cpus

# An application may have imported ray first, which reads this setting when it is imported.
if os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") == "0":
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


# Addresses of the clusters that this process has started.
_own_clusters: set[str] = set()


def connect(address: str | None = None) -> bool:
    """Join the cluster at an address, or start one on this machine.

    Args:
        address: Address of the cluster; RAY_ADDRESS if absent. Without either, a cluster is started.

    Returns:
        Whether this call has started or joined a cluster. The caller then shuts it down.

    Raises:
        UserError: Nothing answers at the address, or Ray did not start.
    """
    if ray.is_initialized():
        # The caller of an earlier call shuts Ray down.
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    options = {"logging_level": logging.ERROR, "log_to_driver": bool(os.environ.get("RAYCOMP_DEBUG"))}
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")

    if address:
        _check_port(address)
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(_unreachable_message(address, error)) from None
    else:
        try:
            start_local_cluster(object_store_memory=512 * 2**20, **options)
        except Exception as error:
            # Ray raises a plain Exception if a busy machine starts its processes too slowly.
            raise UserError(_start_message(error)) from None

    # Their notices are about Ray, and the user of raycomp can do nothing about them.
    for name in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return True


def start_local_cluster(**options: Any) -> None:
    """Start a cluster on this machine that ends with this process. A dashboard is not started.

    Args:
        options: Options of `ray.init`.
    """
    # Ray counts the machine's CPUs, and does not read the affinity mask of Slurm, `taskset` or cgroup v2.
    options.setdefault("num_cpus", usable_cpus())
    # "local": Ray would otherwise join a cluster that `ray start` has left on this machine.
    with child_environment(LOCAL_SETTINGS):
        context = ray.init("local", include_dashboard=False, **options)
    _own_clusters.add(context.address_info["gcs_address"])


def is_own_cluster() -> bool:
    """Return whether raycomp started the cluster, on this machine, and it ends with that process."""
    if os.environ.get(OWN_CLUSTER):
        return True
    return ray.is_initialized() and ray.get_runtime_context().gcs_address in _own_clusters


def _start_message(error: Exception) -> str:
    """Return the message that says why Ray did not start on this machine."""
    reason = first_line(error)
    directory = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # nosec B108  # a name
    if isinstance(error, OSError) and "AF_UNIX path length" in reason:
        return (
            f"Ray did not start on this machine, because the path of its temporary directory {directory} "
            "is too long for the names of its sockets. Set RAY_TMPDIR to a short directory that you can "
            "write, such as /tmp."
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"Ray did not start on this machine, because it cannot write {error.filename or directory} "
            f"({error.strerror}). The directory may belong to another user. Set RAY_TMPDIR to a short "
            "directory that you can write."
        )
    return (
        f"Ray did not start on this machine ({reason}). Run the same command again when the machine is "
        "less busy, or set RAY_ADDRESS to use another cluster."
    )


@contextmanager
def child_environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that the block starts.

    Args:
        settings: Environment variables. A variable that the user has set keeps its value.
    """
    added = {key: value for key, value in settings.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def _check_port(address: str) -> None:
    """Raise UserError if nothing listens at HOST:PORT. Ray would end this process instead.

    Other addresses, such as "auto", are not checked.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(_unreachable_message(address, error)) from None


def _unreachable_message(address: str, error: object) -> str:
    return (
        f"No Ray cluster answers at {address} ({error}). Start one with `ray start --head`, or unset "
        "RAY_ADDRESS to run on this machine."
    )

"""Start or join a Ray cluster, with the settings that raycomp needs."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Values that the user set stay. A job that is submitted takes these along (see `submit`).
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # train.report waits for a poll of the controller: 1.6 s by default. More polls cost processor time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Workers run niced by 15 otherwise: on two cores a training step then took 1.3 times as long.
    "RAY_worker_niceness": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # oneDNN keeps a compiled kernel, with its memory, for each of the last 1,024 shapes; slices and
    # lengths make more. Measured on the demo, with 1,024 and 64: benchmarks/run_memory.py.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}
# For processes of a cluster inside this machine.
LOCAL_SETTINGS = {
    # At the end of every stage Ray Train waits for a helper that asks the dashboard's server about its
    # controller. Where there is none the helper looks for it for 40 s, and the stage waits 12 s of them;
    # told an address at which nothing listens, it gives up at once.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    # Nobody takes this machine away from us, and the watcher is one more process to start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
for _key, _value in RAY_SETTINGS.items():  # before `import ray`: they are read once
    os.environ.setdefault(_key, _value)

import ray

from raycomp.errors import UserError, first_line


def connect(address: str | None = None) -> bool:
    """Join the cluster at `address` (or RAY_ADDRESS), else start one in this machine.

    Returns:
        True when this call started or joined a cluster, so that the caller shuts it down.

    Raises:
        UserError: the address does not answer.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    common = {"logging_level": logging.ERROR, "log_to_driver": bool(os.environ.get("RAYCOMP_DEBUG"))}
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    if address:
        _knock(address)
        try:
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(_unreachable(address, error)) from None
    else:
        try:
            start_local_cluster(object_store_memory=512 * 2**20, **common)
        except Exception as error:  # Ray raises just that when a busy machine starts too slowly
            raise UserError(
                f"Ray did not start on this machine ({first_line(error)}); try again when it is less "
                "busy, or name a cluster with RAY_ADDRESS"
            ) from None
    for noisy in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return True


def start_local_cluster(**options: Any) -> None:
    """Start a cluster of this machine's own: no dashboard, gone with this process.

    Args:
        options: of `ray.init`.
    """
    # "local": a cluster that `ray start` left on this machine is joined only when it is named.
    with child_environment(LOCAL_SETTINGS):
        ray.init("local", include_dashboard=False, **options)


@contextmanager
def child_environment(settings: dict[str, str]) -> Iterator[None]:
    """Give the processes that are started meanwhile these settings, where the user gave none."""
    added = {k: v for k, v in settings.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def _knock(address: str) -> None:
    """Raise UserError when nothing listens at HOST:PORT: Ray would end this process instead."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(_unreachable(address, error)) from None


def _unreachable(address: str, error: object) -> str:
    return (
        f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or unset "
        "RAY_ADDRESS to run on this machine"
    )

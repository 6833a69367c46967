"""Start or join a Ray cluster, with the settings that raycomp needs."""

from __future__ import annotations

import logging
import os
import socket
import warnings

# Before `import ray`: these are read once. Values that the user set stay.
for _key, _value in {
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
}.items():
    os.environ.setdefault(_key, _value)

import ray

from raycomp.errors import UserError


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
        ray.init(include_dashboard=False, object_store_memory=512 * 2**20, **common)
    for noisy in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return True


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


def free_cpus() -> int:
    """Return the CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def free_gpus() -> int:
    """Return the GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))

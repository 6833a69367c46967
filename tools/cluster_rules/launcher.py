"""Rules for the files of `ray up`: Ray's own schema, Ray's further rules, and those of raycomp."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tools.cluster_rules.common import RUNS, Fault, Loader, check_image, check_schema, check_shell

TOKEN_ON_NODE = "/home/raycomp/.ray/auth_token"  # nosec B105  # a path
LOCAL_TOKEN = "~/.ray/auth_token"  # nosec B105  # a path

# Parts of the commands that start Ray.
START_PARTS = ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=", "RAY_worker_niceness=0")
HEAD_START_PARTS = ("--num-cpus=0", "--dashboard-host=127.0.0.1", "--autoscaling-config=")

DOCKER_OPTIONS = ("--cap-drop=ALL", "--security-opt=no-new-privileges", f"--volume={RUNS}:{RUNS}")
FORBIDDEN_OPTION = re.compile(r"--(privileged|user=(0|root)|cap-add|publish|pid)|-(p|u)\b")
MOUNT_RUNS = re.compile(rf"mount -t nfs.*\s{RUNS}$")
SSH_PORT = 22

Config = dict[str, Any]


def check_launcher(text: str) -> Iterator[Fault]:
    """Check a file of Ray's cluster launcher for AWS or GCP."""
    config = yaml.load(text, Loader)  # nosec B506  # Loader is a SafeLoader
    faults = list(check_schema(config, _schema()))
    if faults:
        # The rules rely on the form.
        yield from faults
        return

    yield from _check_node_types(config)
    yield from _check_docker(config.get("docker", {}), "docker")
    yield from _check_token(config)
    yield from _check_provider(config["provider"])
    if not any(MOUNT_RUNS.search(command) for command in config.get("initialization_commands", [])):
        yield Fault("initialization_commands", f"must mount the storage of the runs at {RUNS}")
    yield from _check_commands(config)


def _check_provider(provider: Config) -> Iterator[Fault]:
    if provider["type"] not in ("aws", "gcp"):
        yield Fault("provider.type", "must be aws or gcp")
    for number, rule in enumerate(provider.get("security_group", {}).get("IpPermissions", [])):
        if (rule.get("FromPort"), rule.get("ToPort")) != (SSH_PORT, SSH_PORT):
            yield Fault(
                f"provider.security_group.IpPermissions[{number}]", f"may open port {SSH_PORT} only"
            )


def _check_token(config: Config) -> Iterator[Fault]:
    """Check that every node gets the token of Ray, in a file that only its user can read."""
    if config.get("file_mounts", {}).get(TOKEN_ON_NODE) != LOCAL_TOKEN:
        yield Fault("file_mounts", f"must bring {LOCAL_TOKEN} to {TOKEN_ON_NODE}")
    if f"chmod 600 {LOCAL_TOKEN}" not in config.get("setup_commands", []):
        yield Fault("setup_commands", f"must contain `chmod 600 {LOCAL_TOKEN}`")


def _check_node_types(config: Config) -> Iterator[Fault]:
    node_types = config.get("available_node_types", {})
    max_workers = config.get("max_workers", 2)
    if config.get("head_node_type") not in node_types:
        yield Fault("head_node_type", f"must be one of {', '.join(node_types)}")
    if sum(node_type.get("min_workers", 0) for node_type in node_types.values()) > max_workers:
        yield Fault("max_workers", f"{max_workers} is smaller than the sum of min_workers")

    for name, node_type in node_types.items():
        place = f"available_node_types.{name}"
        if node_type.get("min_workers", 0) > node_type.get("max_workers", max_workers):
            yield Fault(f"{place}.min_workers", "is greater than max_workers")
        docker = node_type.get("docker", {})
        if "worker_image" in docker:
            yield from check_image(docker["worker_image"], f"{place}.docker.worker_image")
        yield from _check_run_options(
            docker.get("worker_run_options", []), f"{place}.docker.worker_run_options"
        )

        metadata_tokens = node_type["node_config"].get("MetadataOptions", {}).get("HttpTokens")
        if config["provider"]["type"] == "aws" and metadata_tokens != "required":
            yield Fault(f"{place}.node_config.MetadataOptions.HttpTokens", "must be required")


def _check_docker(docker: Config, place: str) -> Iterator[Fault]:
    yield from check_image(docker.get("image", ""), f"{place}.image")
    options = docker.get("run_options", [])
    for option in DOCKER_OPTIONS:
        if option not in options:
            yield Fault(f"{place}.run_options", f"{option} is missing")
    yield from _check_run_options(options, f"{place}.run_options")


def _check_run_options(options: list[str], place: str) -> Iterator[Fault]:
    for option in options:
        if FORBIDDEN_OPTION.match(option):
            yield Fault(place, f"{option} is not allowed")


def _check_commands(config: Config) -> Iterator[Fault]:
    """Check every shell command, and those that start Ray."""
    for key in (key for key in config if key.endswith("_commands")):
        required: tuple[str, ...] = START_PARTS
        if key.startswith("head"):
            required += HEAD_START_PARTS
        for number, command in enumerate(config[key]):
            place = f"{key}[{number}]"
            yield from check_shell(command, place)
            if "ray start" not in command:
                continue
            for part in required:
                if part not in command:
                    yield Fault(place, f"{part} is missing")

    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any("ray start" in command for command in config.get(key, [])):
            yield Fault(key, "must start Ray: the launcher's own commands open the dashboard")


@functools.cache
def _schema() -> Config:
    """Return Ray's schema of the file; Ray is found but not imported."""
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        raise LookupError("Ray is not installed. Its schema is part of it.")
    return dict(json.loads((Path(ray.origin).parent / "autoscaler/ray-schema.json").read_text()))

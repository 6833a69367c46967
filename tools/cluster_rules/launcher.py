"""Files of `ray up`: Ray's own schema, Ray's rules beyond it, and this project's."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tools.cluster_rules.common import RUNS, Fault, Loader, image, schema_faults, shell

TOKEN = ("/home/raycomp/.ray/auth_token", "~/.ray/auth_token")  # on a node, on the own machine
NEEDED = ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=", "RAY_worker_niceness=0")
NEEDED_ON_HEAD = ("--num-cpus=0", "--dashboard-host=127.0.0.1", "--autoscaling-config=")
OPTIONS = ("--cap-drop=ALL", "--security-opt=no-new-privileges", f"--volume={RUNS}:{RUNS}")
FORBIDDEN = re.compile(r"--(privileged|user=(0|root)|cap-add|publish|pid)|-(p|u)\b")


def check_launcher(text: str) -> Iterator[Fault]:
    """Check a file of Ray's cluster launcher for AWS or GCP."""
    config = yaml.load(text, Loader)  # nosec B506  # Loader is a SafeLoader
    faults = list(schema_faults(config, _schema()))
    if faults:
        yield from faults
        return
    if config["provider"]["type"] not in ("aws", "gcp"):
        yield "provider.type", "must be aws or gcp"
    yield from _node_types(config)
    yield from _docker(config.get("docker", {}), "docker")
    if config.get("file_mounts", {}).get(TOKEN[0]) != TOKEN[1]:
        yield "file_mounts", f"must bring {TOKEN[1]} to {TOKEN[0]}"
    if f"chmod 600 {TOKEN[1]}" not in config.get("setup_commands", []):
        yield "setup_commands", f"must hold `chmod 600 {TOKEN[1]}`"
    if not any(
        re.search(rf"mount -t nfs.*\s{RUNS}$", c) for c in config.get("initialization_commands", [])
    ):
        yield "initialization_commands", f"must mount the storage of the runs at {RUNS}"
    for i, rule in enumerate(config["provider"].get("security_group", {}).get("IpPermissions", [])):
        if (rule.get("FromPort"), rule.get("ToPort")) != (22, 22):
            yield f"provider.security_group.IpPermissions[{i}]", "may open port 22 only"
    yield from _commands(config)


def _node_types(config: dict[str, Any]) -> Iterator[Fault]:
    types, most = config.get("available_node_types", {}), config.get("max_workers", 2)
    if config.get("head_node_type") not in types:
        yield "head_node_type", f"must be one of {', '.join(types)}"
    if sum(t.get("min_workers", 0) for t in types.values()) > most:
        yield "max_workers", f"{most} is smaller than the sum of min_workers"
    for name, kind in types.items():
        at, own = f"available_node_types.{name}", kind.get("docker", {})
        if kind.get("min_workers", 0) > kind.get("max_workers", most):
            yield f"{at}.min_workers", "is greater than max_workers"
        if "worker_image" in own:
            yield from image(own["worker_image"], f"{at}.docker.worker_image")
        for option in own.get("worker_run_options", []):
            if FORBIDDEN.match(option):
                yield f"{at}.docker.worker_run_options", f"{option} is not allowed"
        tokens = kind["node_config"].get("MetadataOptions", {}).get("HttpTokens")
        if config["provider"]["type"] == "aws" and tokens != "required":
            yield f"{at}.node_config.MetadataOptions.HttpTokens", "must be required"


def _docker(docker: dict[str, Any], at: str) -> Iterator[Fault]:
    yield from image(docker.get("image", ""), f"{at}.image")
    given = docker.get("run_options", [])
    for option in OPTIONS:
        if option not in given:
            yield f"{at}.run_options", f"{option} is missing"
    for option in given:
        if FORBIDDEN.match(option):
            yield f"{at}.run_options", f"{option} is not allowed"


def _commands(config: dict[str, Any]) -> Iterator[Fault]:
    for key in (key for key in config if key.endswith("_commands")):
        for i, command in enumerate(config[key]):
            yield from shell(command, f"{key}[{i}]")
            if "ray start" not in command:
                continue
            for needed in NEEDED + (NEEDED_ON_HEAD if key.startswith("head") else ()):
                if needed not in command:
                    yield f"{key}[{i}]", f"{needed} is missing"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any("ray start" in command for command in config.get(key, [])):
            yield key, "must start Ray: the launcher's own commands open the dashboard"


@functools.cache
def _schema() -> dict[str, Any]:
    found = importlib.util.find_spec("ray")  # without importing it
    if found is None or found.origin is None:
        raise LookupError("Ray is not installed; its schema comes with it")
    return dict(json.loads((Path(found.origin).parent / "autoscaler/ray-schema.json").read_text()))

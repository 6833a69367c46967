"""Rules for the pods and containers of KubeRay's objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.cluster_rules.common import RUNS, SECRET_NAME, Fault, check_image

CLAIM = "raycomp-runs"
NICENESS = {"name": "RAY_worker_niceness", "value": "0"}

Spec = dict[str, Any]


def check_ray_pod(spec: Spec, place: str) -> Iterator[Fault]:
    """Check a pod that runs Ray: also that it mounts the runs."""
    yield from check_pod(spec, place)
    container = spec["containers"][0]
    volumes = {volume["name"] for volume in spec.get("volumes", []) if _claim_name(volume) == CLAIM}
    mounts = container.get("volumeMounts", [])
    if not any(mount["mountPath"] == RUNS and mount["name"] in volumes for mount in mounts):
        yield Fault(f"{place}.containers[0].volumeMounts", f"must mount the claim {CLAIM} at {RUNS}")
    if NICENESS not in container.get("env", []):
        yield Fault(f"{place}.containers[0].env", 'must set RAY_worker_niceness to "0"')


def _claim_name(volume: Spec) -> str:
    return str(volume.get("persistentVolumeClaim", {}).get("claimName", ""))


def check_pod(spec: Spec, place: str) -> Iterator[Fault]:
    """Check a pod: its user, its access to the host, and each of its containers."""
    if spec.get("restartPolicy") != "Never":
        yield Fault(f"{place}.restartPolicy", "must be Never: autoscaler v2 refuses others")

    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True:
        yield Fault(f"{place}.securityContext.runAsNonRoot", "must be true")
    if not security.get("runAsUser"):
        yield Fault(f"{place}.securityContext.runAsUser", "must be a user other than root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield Fault(f"{place}.securityContext.seccompProfile.type", "must be RuntimeDefault")

    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield Fault(f"{place}.{key}", "must not be set")
    for number, volume in enumerate(spec.get("volumes", [])):
        if "hostPath" in volume:
            yield Fault(f"{place}.volumes[{number}].hostPath", "must not be used")

    for kind in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(kind, [])):
            container_place = f"{place}.{kind}[{number}]"
            yield from check_image(container["image"], f"{container_place}.image")
            yield from check_container(container, container_place)


def check_container(container: Spec, place: str) -> Iterator[Fault]:
    """Check the resources, the rights and the environment of a container."""
    resources = container.get("resources", {})
    limits = resources.get("limits", {})
    if not {"cpu", "memory"} <= set(limits):
        yield Fault(f"{place}.resources.limits", "must limit cpu and memory")
    elif resources.get("requests") != limits:
        yield Fault(f"{place}.resources.requests", "must equal limits")

    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield Fault(f"{place}.securityContext.allowPrivilegeEscalation", "must be false")
    if "ALL" not in security.get("capabilities", {}).get("drop", []):
        yield Fault(f"{place}.securityContext.capabilities.drop", "must be [ALL]")
    if security.get("privileged") or security.get("runAsUser") == 0:
        yield Fault(f"{place}.securityContext", "must be neither privileged nor root")
    if security.get("runAsNonRoot") is False:
        yield Fault(f"{place}.securityContext.runAsNonRoot", "must be true")

    for number, variable in enumerate(container.get("env", [])):
        name = variable["name"]
        if SECRET_NAME.search(name) and "valueFrom" not in variable:
            yield Fault(f"{place}.env[{number}]", f"{name} in plain text; use valueFrom.secretKeyRef")

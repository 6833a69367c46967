"""Rules for RayCluster, RayJob and the objects that they refer to.

The form is that of cluster/kuberay/schema.yaml. The functions add what KubeRay's operator refuses, and
what raycomp requires: a token, a closed dashboard, a user other than root, requests equal to limits,
and one directory of runs.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from tools.cluster_rules.common import (
    ROOT,
    RUNS,
    Fault,
    Loader,
    check_schema,
    pinned_version,
)
from tools.cluster_rules.pods import CLAIM, check_container, check_pod, check_ray_pod

ENTRYPOINT = f"raycomp run /mnt/jobs/job.toml --storage {RUNS}"
GPU = "nvidia.com/gpu"
MAX_REPLICAS = 2**31 - 1

# An object of Kubernetes, as read from YAML.
Manifest = dict[str, Any]


def check_kuberay(text: str) -> Iterator[Fault]:
    """Check every object of a file for `kubectl apply`."""
    manifests = [manifest for manifest in yaml.load_all(text, Loader) if isinstance(manifest, dict)]
    if not manifests:
        yield Fault("", "contains no object")

    config_maps = {
        manifest.get("metadata", {}).get("name"): manifest
        for manifest in manifests
        if manifest.get("kind") == "ConfigMap"
    }
    for manifest in manifests:
        kind = str(manifest.get("kind"))
        if kind == "Secret":
            yield Fault(
                "kind", "a secret in plain text; make it with `kubectl create secret` and refer to it"
            )
        elif kind not in KINDS:
            yield Fault("kind", f"{kind!r} is none of {', '.join(KINDS)}")
        else:
            faults = list(check_schema(manifest, {**_schema(), "$ref": f"#/$defs/{kind}"}))
            # The rules rely on the form.
            yield from faults or KINDS[kind](manifest, config_maps)


def _check_cluster(manifest: Manifest, _: Manifest) -> Iterator[Fault]:
    yield from _check_cluster_spec(manifest["spec"], "spec")


def _check_job(manifest: Manifest, config_maps: Manifest) -> Iterator[Fault]:
    spec = manifest["spec"]
    if spec.get("entrypoint") != ENTRYPOINT:
        yield Fault("spec.entrypoint", f"must be `{ENTRYPOINT}`")
    for key in ("submissionMode", "backoffLimit", "ttlSecondsAfterFinished"):
        if key not in spec:
            yield Fault(f"spec.{key}", "is missing")
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield Fault("spec.shutdownAfterJobFinishes", "must be true, or the cluster stays")

    if "submitterPodTemplate" in spec:
        yield from check_pod(spec["submitterPodTemplate"]["spec"], "spec.submitterPodTemplate.spec")
    elif spec.get("submissionMode") == "K8sJobMode":
        yield Fault("spec.submitterPodTemplate", "is missing: that of KubeRay has no security context")

    place = "spec.rayClusterSpec"
    if "rayClusterSpec" not in spec:
        yield Fault(place, "is missing")
        return
    yield from _check_cluster_spec(spec["rayClusterSpec"], place)

    volumes = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].get("volumes", [])
    mounted = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
    if not any("job.toml" in config_maps.get(name, {}).get("data", {}) for name in mounted):
        yield Fault(f"{place}.headGroupSpec", "mounts no ConfigMap of this file that contains job.toml")


def _check_config_map(manifest: Manifest, _: Manifest) -> Iterator[Fault]:
    for key, value in manifest.get("data", {}).items():
        if not key.endswith(".toml"):
            continue
        try:
            parse_job(tomllib.loads(value))
        except (UserError, tomllib.TOMLDecodeError) as error:
            yield Fault(f"data.{key}", f"invalid job: {error}")


def _check_claim(manifest: Manifest, _: Manifest) -> Iterator[Fault]:
    if manifest["metadata"]["name"] != CLAIM:
        yield Fault("metadata.name", f"must be {CLAIM}")
    if manifest["spec"]["accessModes"] != ["ReadWriteMany"]:
        yield Fault("spec.accessModes", "must be [ReadWriteMany]: all nodes mount the runs")


def _check_cluster_spec(spec: Manifest, place: str) -> Iterator[Fault]:
    ray_version = pinned_version("ray")
    if spec.get("rayVersion") != ray_version:
        yield Fault(f"{place}.rayVersion", f"must be {ray_version}, as in constraints.txt")
    auth = spec.get("authOptions", {})
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield Fault(f"{place}.authOptions", "must have mode: token and a secretName")
    if spec.get("enableInTreeAutoscaling") is not True:
        yield Fault(f"{place}.enableInTreeAutoscaling", "must be true")
    yield from check_container(spec.get("autoscalerOptions", {}), f"{place}.autoscalerOptions")
    yield from _check_head(spec["headGroupSpec"], f"{place}.headGroupSpec")
    yield from _check_groups(spec.get("workerGroupSpecs", []), f"{place}.workerGroupSpecs")


def _check_head(head: Manifest, place: str) -> Iterator[Fault]:
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress") or "headService" in head:
        yield Fault(f"{place}.serviceType", "must be ClusterIP: the dashboard stays inside")
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield Fault(f"{place}.rayStartParams.num-cpus", 'must be "0": work goes to the workers')
    yield from check_ray_pod(head["template"]["spec"], f"{place}.template.spec")


def _check_groups(groups: list[Manifest], place: str) -> Iterator[Fault]:
    """Check the worker groups; there must be one with GPUs and one without."""
    names = [group["groupName"] for group in groups]
    have_gpus = set()
    for number, group in enumerate(groups):
        group_place = f"{place}[{number}]"
        yield from _check_replicas(group, group_place)
        if names.count(group["groupName"]) > 1:
            yield Fault(f"{group_place}.groupName", f"{group['groupName']!r} is used twice")

        pod = group["template"]["spec"]
        yield from check_ray_pod(pod, f"{group_place}.template.spec")
        limits = pod["containers"][0].get("resources", {}).get("limits", {})
        have_gpus.add(GPU in limits)
    if have_gpus != {True, False}:
        yield Fault(place, "must contain a group with GPUs and one without")


def _check_replicas(group: Manifest, place: str) -> Iterator[Fault]:
    low = group.get("minReplicas", 0)
    high = group.get("maxReplicas", MAX_REPLICAS)
    if low > high:
        yield Fault(f"{place}.minReplicas", f"{low} is greater than maxReplicas {high}")
    elif not low <= group.get("replicas", low) <= high:
        yield Fault(f"{place}.replicas", f"{group['replicas']} is not between {low} and {high}")


@functools.cache
def _schema() -> Manifest:
    return dict(yaml.safe_load((ROOT / "cluster/kuberay/schema.yaml").read_text()))


KINDS: dict[str, Callable[[Manifest, Manifest], Iterator[Fault]]] = {
    "RayCluster": _check_cluster,
    "RayJob": _check_job,
    "ConfigMap": _check_config_map,
    "PersistentVolumeClaim": _check_claim,
}

"""RayCluster, RayJob and what stands beside them.

The form is kuberay/schema.yaml's; the functions add what KubeRay's operator refuses, and what this
project asks: a token, no open dashboard, no root, requests equal to limits, one folder of runs.
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
    SECRET_NAME,
    Fault,
    Loader,
    image,
    pinned,
    schema_faults,
)

CLAIM = "raycomp-runs"
ENTRYPOINT = f"raycomp run /mnt/jobs/job.toml --storage {RUNS}"
Things = dict[str, Any]


def check_kuberay(text: str) -> Iterator[Fault]:
    """Check every object of a file for `kubectl apply`."""
    things = [thing for thing in yaml.load_all(text, Loader) if isinstance(thing, dict)]
    maps = {t.get("metadata", {}).get("name"): t for t in things if t.get("kind") == "ConfigMap"}
    if not things:
        yield "", "holds no object"
    for thing in things:
        kind = str(thing.get("kind"))
        if kind == "Secret":
            yield "kind", "a secret in plain text; make it with `kubectl create secret` and refer to it"
        elif kind not in KINDS:
            yield "kind", f"{kind!r} is none of {', '.join(KINDS)}"
        else:
            faults = list(schema_faults(thing, {**_schema(), "$ref": f"#/$defs/{kind}"}))
            yield from faults or KINDS[kind](thing, maps)  # the rules rely on the form


def _cluster(thing: Things, _: Things) -> Iterator[Fault]:
    yield from _cluster_spec(thing["spec"], "spec")


def _job(thing: Things, maps: Things) -> Iterator[Fault]:
    spec, at = thing["spec"], "spec.rayClusterSpec"
    if spec.get("entrypoint") != ENTRYPOINT:
        yield "spec.entrypoint", f"must be `{ENTRYPOINT}`"
    for key in ("submissionMode", "backoffLimit", "ttlSecondsAfterFinished"):
        if key not in spec:
            yield f"spec.{key}", "is missing"
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "spec.shutdownAfterJobFinishes", "must be true, or the cluster stays"
    if "submitterPodTemplate" in spec:
        yield from _pod(spec["submitterPodTemplate"]["spec"], "spec.submitterPodTemplate.spec")
    elif spec.get("submissionMode") == "K8sJobMode":
        yield "spec.submitterPodTemplate", "is missing: KubeRay's own has no security context"
    if "rayClusterSpec" not in spec:
        yield at, "is missing"
        return
    yield from _cluster_spec(spec["rayClusterSpec"], at)
    volumes = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].get("volumes", [])
    mounted = [v["configMap"]["name"] for v in volumes if "configMap" in v]
    if not any("job.toml" in maps.get(name, {}).get("data", {}) for name in mounted):
        yield f"{at}.headGroupSpec", "mounts no ConfigMap of this file that holds job.toml"


def _config_map(thing: Things, _: Things) -> Iterator[Fault]:
    for key, value in thing.get("data", {}).items():
        try:
            if key.endswith(".toml"):
                parse_job(tomllib.loads(value))
        except (UserError, tomllib.TOMLDecodeError) as error:
            yield f"data.{key}", f"no valid job: {error}"


def _claim(thing: Things, _: Things) -> Iterator[Fault]:
    if thing["metadata"]["name"] != CLAIM:
        yield "metadata.name", f"must be {CLAIM}"
    if thing["spec"]["accessModes"] != ["ReadWriteMany"]:
        yield "spec.accessModes", "must be [ReadWriteMany]: all nodes mount the runs"


def _cluster_spec(spec: Things, at: str) -> Iterator[Fault]:
    head, auth = spec["headGroupSpec"], spec.get("authOptions", {})
    if spec.get("rayVersion") != pinned("ray"):
        yield f"{at}.rayVersion", f"must be {pinned('ray')}, as in constraints.txt"
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield f"{at}.authOptions", "must have mode: token and a secretName"
    if spec.get("enableInTreeAutoscaling") is not True:
        yield f"{at}.enableInTreeAutoscaling", "must be true"
    yield from _container(spec.get("autoscalerOptions", {}), f"{at}.autoscalerOptions")
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress") or "headService" in head:
        yield f"{at}.headGroupSpec.serviceType", "must be ClusterIP: the dashboard stays inside"
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield f"{at}.headGroupSpec.rayStartParams.num-cpus", 'must be "0": work goes to the workers'
    yield from _ray_pod(head["template"]["spec"], f"{at}.headGroupSpec.template.spec")
    yield from _groups(spec.get("workerGroupSpecs", []), f"{at}.workerGroupSpecs")


def _groups(groups: list[Things], at: str) -> Iterator[Fault]:
    names, gpus = [g["groupName"] for g in groups], set()
    for i, group in enumerate(groups):
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if low > high:
            yield f"{at}[{i}].minReplicas", f"{low} is greater than maxReplicas {high}"
        elif not low <= group.get("replicas", low) <= high:
            yield f"{at}[{i}].replicas", f"{group['replicas']} is not between {low} and {high}"
        if names.count(group["groupName"]) > 1:
            yield f"{at}[{i}].groupName", f"{group['groupName']!r} is used twice"
        pod = group["template"]["spec"]
        yield from _ray_pod(pod, f"{at}[{i}].template.spec")
        gpus.add("nvidia.com/gpu" in pod["containers"][0].get("resources", {}).get("limits", {}))
    if gpus != {True, False}:
        yield at, "must hold a group with GPUs and one without"


def _ray_pod(spec: Things, at: str) -> Iterator[Fault]:
    yield from _pod(spec, at)
    first = spec["containers"][0]
    claims = {v["name"] for v in spec.get("volumes", []) if _claimed(v) == CLAIM}
    if not any(m["mountPath"] == RUNS and m["name"] in claims for m in first.get("volumeMounts", [])):
        yield f"{at}.containers[0].volumeMounts", f"must mount the claim {CLAIM} at {RUNS}"
    if {"name": "RAY_worker_niceness", "value": "0"} not in first.get("env", []):
        yield f"{at}.containers[0].env", 'must set RAY_worker_niceness to "0"'


def _claimed(volume: Things) -> str:
    return str(volume.get("persistentVolumeClaim", {}).get("claimName", ""))


def _pod(spec: Things, at: str) -> Iterator[Fault]:
    security = spec.get("securityContext", {})
    if spec.get("restartPolicy") != "Never":
        yield f"{at}.restartPolicy", "must be Never: autoscaler v2 refuses others"
    if security.get("runAsNonRoot") is not True:
        yield f"{at}.securityContext.runAsNonRoot", "must be true"
    if not security.get("runAsUser"):
        yield f"{at}.securityContext.runAsUser", "must be a user other than root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{at}.securityContext.seccompProfile.type", "must be RuntimeDefault"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{at}.{key}", "must not be set"
    for i, volume in enumerate(spec.get("volumes", [])):
        if "hostPath" in volume:
            yield f"{at}.volumes[{i}].hostPath", "must not be used"
    for kind in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(kind, [])):
            yield from image(container["image"], f"{at}.{kind}[{i}].image")
            yield from _container(container, f"{at}.{kind}[{i}]")


def _container(container: Things, at: str) -> Iterator[Fault]:
    resources, security = container.get("resources", {}), container.get("securityContext", {})
    limits = resources.get("limits", {})
    if not {"cpu", "memory"} <= set(limits):
        yield f"{at}.resources.limits", "must limit cpu and memory"
    elif resources.get("requests") != limits:
        yield f"{at}.resources.requests", "must equal limits"
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{at}.securityContext.allowPrivilegeEscalation", "must be false"
    if "ALL" not in security.get("capabilities", {}).get("drop", []):
        yield f"{at}.securityContext.capabilities.drop", "must be [ALL]"
    if security.get("privileged") or security.get("runAsUser") == 0:
        yield f"{at}.securityContext", "must be neither privileged nor root"
    if security.get("runAsNonRoot") is False:
        yield f"{at}.securityContext.runAsNonRoot", "must be true"
    for i, variable in enumerate(container.get("env", [])):
        if SECRET_NAME.search(variable["name"]) and "valueFrom" not in variable:
            yield f"{at}.env[{i}]", f"{variable['name']} in plain text; use valueFrom.secretKeyRef"


@functools.cache
def _schema() -> Things:
    return dict(yaml.safe_load((ROOT / "cluster/kuberay/schema.yaml").read_text()))


KINDS: dict[str, Callable[[Things, Things], Iterator[Fault]]] = {
    "RayCluster": _cluster,
    "RayJob": _job,
    "ConfigMap": _config_map,
    "PersistentVolumeClaim": _claim,
}

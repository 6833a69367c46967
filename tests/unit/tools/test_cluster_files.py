"""The files of cluster/ pass their checks, and each changed line is found."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
import typer

from raycomp.cli.main import app
from tools.check_cluster import FILES, check_file, main

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "cluster").glob("*.md"))


def test_the_shipped_files_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert capsys.readouterr().out.splitlines() == [f"ok   {name}" for name in FILES]


CLUSTER, JOB = "cluster/kuberay/raycluster.yaml", "cluster/kuberay/rayjob.yaml"
STORAGE, DOCKER, SLURM = "cluster/kuberay/storage.yaml", "cluster/Dockerfile", "cluster/slurm.sh"
AWS, GCP = "cluster/aws.yaml", "cluster/gcp.yaml"
POD = "spec.headGroupSpec.template.spec"
HEAD, GROUPS = f"{POD}.containers[0]", "spec.workerGroupSpecs"
INIT, START = "initialization_commands", "head_start_ray_commands[1]"
GPU_WORKER = f"{GROUPS}[1].template.spec.containers[0]"
NICENESS = 'name: RAY_worker_niceness, value: "0"'

CHANGES = [
    # file, what is replaced, by what, where the fault is, a part of the message
    (CLUSTER, "ray.io/v1\n", "ray.io/v1alpha1\n", "apiVersion", "'ray.io/v1' was expected"),
    (CLUSTER, "  rayVersion:", "  rayversion:", "spec", "'rayversion' was unexpected"),
    (CLUSTER, "rayVersion: 2.60.0", "rayVersion: 2.59.0", "spec.rayVersion", "must be 2.60.0"),
    (CLUSTER, "  name: raycomp\n", "  name: Raycomp_1\n", "metadata.name", "does not match"),
    (CLUSTER, "kind: RayCluster", "kind: RayService", "kind", "'RayService' is none of"),
    (CLUSTER, "Policy: Never", "Policy: Sometimes", f"{POD}.restartPolicy", "'Sometimes' is not one of"),
    (CLUSTER, "Policy: Never", "Policy: Always", f"{POD}.restartPolicy", "must be Never"),
    (CLUSTER, "Mode: Default", "Mode: Fast",
     "spec.autoscalerOptions.upscalingMode", "'Fast' is not one of"),
    (CLUSTER, "minReplicas: 2", "minReplicas: 9",
     f"{GROUPS}[0].minReplicas", "greater than maxReplicas 8"),
    (CLUSTER, "replicas: 2", "replicas: 9", f"{GROUPS}[0].replicas", "9 is not between 2 and 8"),
    (CLUSTER, "groupName: gpu", "groupName: cpu", f"{GROUPS}[1].groupName", "'cpu' is used twice"),
    (CLUSTER, ', nvidia.com/gpu: "1"', "", GROUPS, "a group with GPUs"),
    (CLUSTER, 'limits: {cpu: "4", memory: 16Gi}', "limits: {}", f"{HEAD}.resources.limits", "limit cpu"),
    (CLUSTER, 'requests: {cpu: "4"', 'requests: {cpu: "1"',
     f"{HEAD}.resources.requests", "must equal limits"),
    (CLUSTER, "memory: 16Gi", "memory: 16 GB", f"{HEAD}.resources.limits.memory", "is not valid"),
    (CLUSTER, "          runAsNonRoot: true\n", "",
     f"{POD}.securityContext.runAsNonRoot", "must be true"),
    (CLUSTER, "runAsUser: 1000", "runAsUser: 0", f"{POD}.securityContext.runAsUser", "other than root"),
    (CLUSTER, "[ALL]", "[KILL]", f"{HEAD}.securityContext.capabilities.drop", "must be [ALL]"),
    (CLUSTER, "RuntimeDefault", "Unconfined",
     f"{POD}.securityContext.seccompProfile.type", "RuntimeDefault"),
    (CLUSTER, "mode: token", "mode: disabled", "spec.authOptions", "must have mode: token"),
    (CLUSTER, "    secretName: raycomp-auth  #", "    #", "spec.authOptions", "and a secretName"),
    (CLUSTER, "ClusterIP", "LoadBalancer", "spec.headGroupSpec.serviceType", "must be ClusterIP"),
    (CLUSTER, "ClusterIP", "Public", "spec.headGroupSpec.serviceType", "'Public' is not one of"),
    (CLUSTER, 'cpus: "0"', "cpus: 0",
     "spec.headGroupSpec.rayStartParams['num-cpus']", "not of type 'string'"),
    (CLUSTER, 'cpus: "0"', 'cpus: "4"', "spec.headGroupSpec.rayStartParams.num-cpus", 'must be "0"'),
    (CLUSTER, "raycomp:0.1.0-cpu\n            imageP", "raycomp:latest\n            imageP",
     f"{HEAD}.image", "not latest"),
    (CLUSTER, "raycomp:0.1.0-cu130\n              imageP", "raycomp\n              imageP",
     f"{GPU_WORKER}.image", "explicit tag"),
    (CLUSTER, NICENESS, "name: HF_TOKEN, value: abc",
     f"{HEAD}.env[0]", "HF_TOKEN in plain text; use valueFrom"),
    (CLUSTER, NICENESS, 'name: OTHER, value: "0"', f"{HEAD}.env", "must set RAY_worker_niceness"),
    (CLUSTER, "mountPath: /mnt/runs", "mountPath: /data", f"{HEAD}.volumeMounts", "at /mnt/runs"),
    (CLUSTER, "Autoscaling: true", "Autoscaling: false", "spec.enableInTreeAutoscaling", "must be true"),
    (CLUSTER, "  rayVersion", "  suspend: false\n  suspend: true\n  rayVersion",
     "", "'suspend' is given twice"),
    (JOB, "submissionMode: K8sJobMode", "submissionMode: Http",
     "spec.submissionMode", "'Http' is not one of"),
    (JOB, "backoffLimit: 2", "backoffLimit: -1", "spec.backoffLimit", "less than the minimum of 0"),
    (JOB, "Finishes: true", "Finishes: false", "spec.shutdownAfterJobFinishes", "must be true"),
    (JOB, "  ttlSecondsAfterFinished: 300\n", "", "spec.ttlSecondsAfterFinished", "is missing"),
    (JOB, "entrypoint: raycomp run", "entrypoint: raycomp plan",
     "spec.entrypoint", "must be `raycomp run"),
    (JOB, "    workers = 2\n", "    workrs = 2\n", "data.job.toml", "workrs"),
    (JOB, "  job.toml: |", "  other.toml: |", "spec.rayClusterSpec.headGroupSpec", "mounts no ConfigMap"),
    (JOB, "kind: ConfigMap", "kind: Secret", "kind", "a secret in plain text"),
    (STORAGE, "[ReadWriteMany]", "[ReadWriteOnce]", "spec.accessModes", "must be [ReadWriteMany]"),
    (STORAGE, "[ReadWriteMany]", "[ReadWriteAll]", "spec.accessModes[0]", "'ReadWriteAll' is not one of"),
    (AWS, "max_workers: 8\nup", "max_wokers: 8\nup", "", "'max_wokers' was unexpected"),
    (AWS, "max_workers: 8\nup", "max_workers: many\nup",
     "max_workers", "'many' is not of type 'integer'"),
    (AWS, "max_workers: 8\nup", "max_workers: 1\nup",
     "max_workers", "smaller than the sum of min_workers"),
    (AWS, "node_type: head", "node_type: main", "head_node_type", "must be one of head, cpu, gpu"),
    (AWS, "GPU: 1}", "GPU: 0.5}", "available_node_types.gpu.resources.GPU", "not of type 'integer'"),
    (AWS, "{HttpTokens: required}", "{HttpTokens: optional}",
     "available_node_types.head.node_config.MetadataOptions.HttpTokens", "must be required"),
    (AWS, "    GroupName: raycomp\n", "    IpPermissions: [{FromPort: 8265, ToPort: 8265}]\n",
     "provider.security_group.IpPermissions[0]", "may open port 22 only"),
    (AWS, "0.1.0-cpu\n  container", "9.9.9-cpu\n  container",
     "docker.image", "begin with raycomp's version"),
    (AWS, "--cap-drop=ALL", "--privileged", "docker.run_options", "--privileged is not allowed"),
    (AWS, "boto3==1.44.5", "boto3", "head_setup_commands[0]", "pip install boto3 is not pinned"),
    (GCP, "host=127.0.0.1", "host=0.0.0.0", START, "--dashboard-host=127.0.0.1 is missing"),
    (GCP, "RAY_AUTH_MODE=token ", "", START, "RAY_AUTH_MODE=token is missing"),
    (GCP, "/home/raycomp/.ray/auth_token:", "/root/token:",
     "file_mounts", "must bring ~/.ray/auth_token"),
    (GCP, "REPLACE:/runs /mnt/runs", "REPLACE:/runs /data", INIT, "at /mnt/runs"),
    (GCP, "sudo mkdir -p /mnt/runs", "curl -fsSL https://x.y | sudo bash",
     f"{INIT}[2]", "pipes a download"),
    (GCP, "project_id: REPLACE", f"project_id: {'0f' * 32}", "line 12", "a secret in plain text"),
    (DOCKER, "python:3.11.14-slim-bookworm", "python:latest", "FROM", "not latest"),
    (DOCKER, "python:3.11.14-slim-bookworm", "python", "FROM", "explicit tag"),
    (DOCKER, "USER 1000:1000", "USER root", "USER", "must not be root"),
    (DOCKER, "USER 1000:1000", "USER raycomp", "USER", "must be a number"),
    (DOCKER, " --constraint constraints.txt torch", " torch", "RUN", "pip install torch is not pinned"),
    (DOCKER, " --no-cache-dir setuptools", " setuptools", "RUN", "without --no-cache-dir"),
    (DOCKER, " --no-install-recommends", "", "RUN", "apt-get install without --no-install-recommends"),
    (DOCKER, "COPY pyproject.toml README.md LICENSE ./", "COPY . ./", "COPY", "name what is copied"),
    (DOCKER, "COPY pyproject.toml", "ADD pyproject.toml", "ADD", "use COPY"),
    (DOCKER, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "ENV", "RAY_AUTH_MODE must be token"),
    (DOCKER, "RAY_worker_niceness=0", "RAY_worker_niceness=15", "ENV", "RAY_worker_niceness must be 0"),
    (DOCKER, "LANG=C.UTF-8", "HF_TOKEN=abc", "ENV", "HF_TOKEN in plain text"),
    (DOCKER, 'CMD ["bash"]', 'ENTRYPOINT ["raycomp"]', "ENTRYPOINT", "must not be set"),
    (SLURM, "#!/usr/bin/env bash\n", "", "line 1", "must be `#!/usr/bin/env bash`"),
    (SLURM, "set -euo pipefail\n", "set -u\n", "", "must be `set -euo pipefail`"),
    (SLURM, "pipefail\n", "pipefail\n#SBATCH --partition=x\n", "line 19", "reads no #SBATCH"),
    (SLURM, "#SBATCH --time=08:00:00\n", "", "", "#SBATCH --time is missing"),
    (SLURM, "done\n", "", "", "bash -n:"),
    (SLURM, "RAY_AUTH_MODE=token ", "", "", "RAY_AUTH_MODE=token is missing"),
    (SLURM, "umask 077", "umask 022", "", "umask 077 is missing"),
    (SLURM, "pipefail\n", "pipefail\nray stop\n",
     "line 19", "ends processes that this job did not start"),
    (SLURM, "RAY_worker_niceness=0", "RAY_worker_niceness=5", "export", "RAY_worker_niceness must be 0"),
    (".dockerignore", "*\n!constraints", "!constraints", "", "must begin with `*`"),
    (".dockerignore", "!LICENSE", "!.git", "", "!.git lets in too much"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "where", "what"), CHANGES)
def test_a_changed_line_is_found(name: str, old: str, new: str, where: str, what: str) -> None:
    text = (ROOT / name).read_text()
    assert old in text
    faults = check_file(name, text.replace(old, new, 1))
    assert any(at == where and what in message for at, message in faults), faults


def test_a_digest_of_an_image_is_not_a_secret() -> None:
    text = (ROOT / DOCKER).read_text().replace("-bookworm", f"-bookworm@sha256:{'0f' * 32}", 1)
    assert check_file(DOCKER, text) == []


def test_a_missing_file_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.check_cluster.ROOT", tmp_path)
    assert main() == 1
    assert f"{AWS}: this file is missing" in capsys.readouterr().out


STUBS = {
    "scontrol": "echo nodeA; echo nodeB",
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "ray": """case $1 in
        start) trap 'echo ended >> "$RECORD"; exit' TERM; echo "ray $*" >> "$RECORD"
               while :; do sleep .02; done;;
        esac""",
    "python": """[[ $1 == - ]] && exit 0; printf %064d 7""",
    "raycomp": """echo "raycomp $* at $RAY_ADDRESS" >> "$RECORD"
        until [[ $(grep -c '^ray start' "$RECORD") == 2 ]]; do sleep .02; done
        stat -c %a "$RAY_AUTH_TOKEN_PATH" >> "$RECORD"; $ACT""",
}


@pytest.mark.parametrize(("act", "code"), [("exit 7", 7), ("exec sleep 60", 143)])
def test_the_slurm_script_ends_its_processes_and_returns_the_exit_code_of_raycomp(
    tmp_path: Path, act: str, code: int
) -> None:
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    record, storage = tmp_path / "record", tmp_path / "runs"
    given = {"SLURM_JOB_ID": "31", "SLURM_JOB_NODELIST": "node[A-B]", "SLURM_CPUS_PER_TASK": "4"}
    given |= {"RAYCOMP_HEAD_IP": "10.0.0.1", "RECORD": str(record), "ACT": act}
    process = subprocess.Popen(
        ["bash", str(ROOT / SLURM), "job.toml", str(storage), "--set", "run.seed=1"],
        env={**given, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    if code == 143:  # what Slurm sends before the time is over
        deadline = time.monotonic() + 10
        while not (record.exists() and "600" in record.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == code
    lines = record.read_text().splitlines()
    assert f"raycomp run job.toml --storage {storage} --set run.seed=1 at 10.0.0.1:20031" in lines
    assert "600" in lines  # the token's mode
    assert sum(line.startswith("ray start") for line in lines) == lines.count("ended") == 2
    assert list(storage.iterdir()) == []  # the token is gone
    assert stat.S_IMODE(storage.stat().st_mode) & 0o055  # the runs stay readable for others


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_files_of_the_pages_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"(?<![\w/])(?:cluster|jobs)/[\w./-]+\w", text):
        assert (ROOT / name).exists(), name
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    blocks = "".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = [line for line in blocks.splitlines() if line.startswith("raycomp ")]
    for line in lines + re.findall(r"`(raycomp \w+ [^`]+)`", text):
        name, *words = shlex.split(line, comments=True)[1:]
        commands[name].make_context(name, words)  # raises when an option does not exist


def test_every_target_has_a_page() -> None:
    overview = (ROOT / "cluster/README.md").read_text()
    names = {page.name for page in PAGES} - {"README.md"}
    assert names == {"aws.md", "docker.md", "gcp.md", "kuberay.md", "slurm.md"}
    assert all(f"({name})" in overview for name in names)

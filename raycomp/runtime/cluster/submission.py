"""Submission of jobs and studies to a Ray cluster through its job API.

raycomp sends its own source (unless the cluster's image has it installed) and one JSON file with the
checked job or study. The command that the cluster runs is a constant: nothing that a user wrote becomes
part of a shell command.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.config.study import StudySpec, parse_study
from raycomp.errors import UserError
from raycomp.runtime.cluster.connect import RAY_SETTINGS
from raycomp.runtime.cluster.dashboard import connect_to_dashboard, explained_errors
from raycomp.storage.location import is_url
from raycomp.storage.remote import refuse_secrets
from raycomp.version import VERSION

REQUEST = "raycomp-request.json"
START_SCRIPT = "start_job.sh"
ENTRYPOINT = f"exec sh {START_SCRIPT}"
"""Constant command of every job. `exec` makes the script a child of Ray's process, which it looks at."""

END_STATES = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_SECONDS = 0.5

AGENT_SECONDS = 60.0
"""How long a cluster that has just started may take until its agents accept jobs."""


def submit(work: Job | StudySpec, storage: str, address: str | None, *, installed: bool = False) -> str:
    """Send a job or a study to a cluster.

    Args:
        work: Job or study. Files and directories that it names must exist on the cluster.
        storage: Absolute path on the cluster's head node, or a URL.
        address: URL of the cluster's dashboard; see `connect_to_dashboard`.
        installed: Whether the cluster's image has this version of raycomp. Then no source is sent.

    Returns:
        Id of the job on the cluster.

    Raises:
        UserError: The cluster does not answer, or refuses the job.
    """
    if is_url(storage):
        # The request, which the cluster stores and shows, contains the storage.
        refuse_secrets(storage)
    elif not Path(storage).is_absolute():
        raise UserError(
            f"--storage {storage!r} is not an absolute path. A job on a cluster needs an absolute path "
            "on its head node, such as /mnt/shared/runs, or a URL, such as s3://bucket/runs."
        )
    client = connect_to_dashboard(address)
    name = work.id if isinstance(work, StudySpec) else work.run_id
    # A cluster accepts an id once, and a run may be submitted several times.
    identity = f"{name}-{secrets.token_hex(4)}"

    with tempfile.TemporaryDirectory() as folder:
        _write_request(Path(folder), work, storage, installed)
        with explained_errors(address):
            _send_job(client, identity, folder, {"run": name, "raycomp": VERSION})
    return identity


def _send_job(client: Any, identity: str, folder: str, metadata: dict[str, str]) -> None:
    """Submit a job, and wait for the agents of a cluster that has just started."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            client.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=identity,
                runtime_env={"working_dir": folder, "env_vars": dict(RAY_SETTINGS)},
                metadata=metadata,
            )
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            # The head node accepts jobs some seconds after its dashboard answers.
            time.sleep(1)


def follow_job(identity: str, address: str | None, write: Callable[[str], Any]) -> int:
    """Write a job's output while it runs, and return its exit code.

    Args:
        identity: Id of the job.
        address: URL of the cluster's dashboard; see `connect_to_dashboard`.
        write: Function that is called with each piece of the output.

    Raises:
        UserError: The cluster does not answer, or does not know the job.
    """
    client = connect_to_dashboard(address)
    with explained_errors(address):
        _check_job_exists(client, identity)

        async def write_output() -> None:
            output: AsyncIterator[str] = client.tail_job_logs(identity)
            async for text in output:
                write(text)

        asyncio.run(write_output())
        # The output may end before the status changes.
        while (info := client.get_job_info(identity)).status.value not in END_STATES:
            time.sleep(POLL_SECONDS)

    if info.status.value == "SUCCEEDED":
        return 0
    # Without an exit code the job did not start, or it was stopped.
    if info.driver_exit_code is None:
        write(f"Job {identity}: {info.status.value.lower()}. {info.message or 'No message.'}\n")
    return info.driver_exit_code or 1


def read_logs(identity: str, address: str | None) -> str:
    """Return what a job has written so far.

    Raises:
        UserError: The cluster does not answer, or does not know the job.
    """
    client = connect_to_dashboard(address)
    with explained_errors(address):
        _check_job_exists(client, identity)
        return str(client.get_job_logs(identity))


def stop_job(identity: str, address: str | None) -> str:
    """Stop a job, wait until it has ended, and return its status.

    Raises:
        UserError: The cluster does not answer, or does not know the job.
    """
    client = connect_to_dashboard(address)
    with explained_errors(address):
        _check_job_exists(client, identity)
        client.stop_job(identity)
        while (status := client.get_job_status(identity).value) not in END_STATES:
            time.sleep(POLL_SECONDS)
    return str(status)


def list_jobs(address: str | None) -> list[dict[str, Any]]:
    """Return the raycomp jobs of a cluster, the latest first.

    Returns:
        For each job: id, run, status, started and ended (seconds since 1970), message.

    Raises:
        UserError: The cluster does not answer.
    """
    client = connect_to_dashboard(address)
    with explained_errors(address):
        infos = _raycomp_jobs(client)
    infos.sort(key=lambda info: info.start_time or 0, reverse=True)
    return [
        {
            "id": info.submission_id,
            "run": info.metadata["run"],
            "status": info.status.value,
            "started": (info.start_time or 0) / 1e3,
            "ended": info.end_time / 1e3 if info.end_time else None,
            "message": info.message,
        }
        for info in infos
    ]


def _raycomp_jobs(client: Any) -> list[Any]:
    return [info for info in client.list_jobs() if (info.metadata or {}).get("raycomp")]


def _check_job_exists(client: Any, identity: str) -> None:
    """Raise UserError if the cluster does not have a raycomp job of this id."""
    identities = sorted(str(info.submission_id) for info in _raycomp_jobs(client))
    if identity not in identities:
        latest = ", ".join(identities[-5:]) or "none"
        raise UserError(
            f"Job {identity!r} is not known to the cluster. Its raycomp jobs are: {latest}. "
            "`raycomp status` lists all of them."
        )


def _write_request(folder: Path, work: Job | StudySpec, storage: str, installed: bool) -> None:
    """Write what is sent to the cluster: the request, and raycomp's source if the cluster lacks it."""
    request: dict[str, Any] = {"version": VERSION, "installed": installed, "storage": storage}
    if isinstance(work, StudySpec):
        request |= {"study": work.source, "preset": work.preset, "only": list(work.only)}
    else:
        request |= {"job": work.model_dump(mode="json", exclude_unset=True)}
    (folder / REQUEST).write_text(json.dumps(request))
    # Also for an installed raycomp: the script finds out where it is installed.
    shutil.copyfile(Path(__file__).with_name(START_SCRIPT), folder / START_SCRIPT)

    if not installed:
        source = Path(__file__).parents[2]
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, folder / "raycomp", ignore=ignored)


def read_request() -> tuple[Job | StudySpec, str]:
    """Return what the cluster shall run: job or study, and storage, from the request in this directory.

    Raises:
        UserError: The cluster's image has another version of raycomp than the one that submitted.
    """
    request = json.loads(Path(REQUEST).read_text())
    if request["installed"] and request["version"] != VERSION:
        raise UserError(
            f"raycomp {request['version']} submitted this job, but the cluster has {VERSION}. Submit it "
            "without --installed, or install the same version on the cluster."
        )
    storage = str(request["storage"])
    if "study" in request:
        return parse_study(request["study"], request["preset"]).choose(request["only"]), storage
    return parse_job(request["job"]), storage

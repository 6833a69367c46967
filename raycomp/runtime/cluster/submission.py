"""Submitting jobs to a Ray cluster by its job API, and asking about them afterwards.

What is sent is raycomp's own source (unless the cluster's image has it installed) and one JSON file
with the checked job or study. The command that the cluster runs is a constant: nothing that a user wrote
becomes part of a shell's line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.config.study import StudySpec, parse_study
from raycomp.errors import UserError
from raycomp.runtime.cluster.connect import RAY_SETTINGS
from raycomp.storage.location import is_url
from raycomp.version import VERSION

REQUEST = "raycomp-request.json"
ENTRYPOINT = "python -m raycomp.cli.main run-request"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_SECONDS = 0.5
AGENT_SECONDS = 60.0


def submit(work: Job | StudySpec, storage: str, address: str | None, *, installed: bool = False) -> str:
    """Send a job or a study to a cluster and return its id there.

    Args:
        work: what to run; files and folders that it names must exist on the cluster.
        storage: folder of the runs, absolute, on the cluster's head node; or a URL.
        address: of the cluster's dashboard, such as http://127.0.0.1:8265; None: see
            `connect_to_dashboard`.
        installed: the cluster's image has this version of raycomp; send no source.

    Raises:
        UserError: the cluster does not answer, or it refuses.
    """
    if not is_url(storage) and not Path(storage).is_absolute():
        raise UserError(
            f"--storage {storage!r} was given; a job on a cluster needs an absolute path on its head "
            "node, such as /mnt/shared/runs, or a URL, such as s3://bucket/runs"
        )
    api = connect_to_dashboard(address)
    name = work.id if isinstance(work, StudySpec) else work.run_id
    identity = f"{name}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder:
        _pack(Path(folder), work, storage, installed)
        with _explained(address):
            _send(api, identity, folder, {"run": name, "raycomp": VERSION})
    return identity


def _send(api: Any, identity: str, folder: str, metadata: dict[str, str]) -> None:
    """Submit; a cluster that has just started gets time until its agents answer."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            api.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=identity,
                runtime_env={"working_dir": folder, "env_vars": dict(RAY_SETTINGS)},
                metadata=metadata,
            )
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)


def follow_job(identity: str, address: str | None, write: Callable[[str], Any]) -> int:
    """Write a job's output as it comes, until it ends; return its exit code."""
    api = connect_to_dashboard(address)
    with _explained(address):
        _known(api, identity)

        async def stream() -> None:
            lines: AsyncIterator[str] = api.tail_job_logs(identity)
            async for text in lines:
                write(text)

        asyncio.run(stream())
        while (info := api.get_job_info(identity)).status.value not in ENDED:
            time.sleep(POLL_SECONDS)
    if info.status.value == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None:  # it never began, or it was stopped
        write(f"job {identity}: {info.status.value.lower()}; {info.message or 'no message'}\n")
    return info.driver_exit_code or 1


def read_logs(identity: str, address: str | None) -> str:
    """Return what a job has written so far."""
    api = connect_to_dashboard(address)
    with _explained(address):
        _known(api, identity)
        return str(api.get_job_logs(identity))


def stop_job(identity: str, address: str | None) -> str:
    """Ask a job to stop, wait until it has, and return its status."""
    api = connect_to_dashboard(address)
    with _explained(address):
        _known(api, identity)
        api.stop_job(identity)
        while (status := api.get_job_status(identity).value) not in ENDED:
            time.sleep(POLL_SECONDS)
    return str(status)


def list_jobs(address: str | None) -> list[dict[str, Any]]:
    """Return what the cluster knows of raycomp's jobs, the latest first."""
    api = connect_to_dashboard(address)
    with _explained(address):
        found = [i for i in api.list_jobs() if (i.metadata or {}).get("raycomp")]
    found.sort(key=lambda i: i.start_time or 0, reverse=True)
    return [
        {
            "id": i.submission_id,
            "run": i.metadata["run"],
            "status": i.status.value,
            "started": (i.start_time or 0) / 1e3,
            "ended": i.end_time / 1e3 if i.end_time else None,
            "message": i.message,
        }
        for i in found
    ]


def connect_to_dashboard(address: str | None) -> Any:
    """Return a client of the cluster at `address`, RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265.

    Token authentication is Ray's own: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Raises:
        UserError: the address is none, or nothing answers there.
    """
    address = _address(address)
    from ray.job_submission import JobSubmissionClient

    for chatty in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk",
                   "_private.runtime_env.packaging"):  # fmt: skip
        logging.getLogger(f"ray.{chatty}").setLevel(logging.WARNING)  # they say what they upload
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or Ray would prefer what it finds there
    with _explained(address):
        return JobSubmissionClient(address)


def _address(given: str | None) -> str:
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    try:
        parts = urlsplit(address)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise UserError(
            f"--address {address!r} was given; it must be the URL of a cluster's dashboard, such as "
            "http://127.0.0.1:8265"
        )
    return address


@contextmanager
def _explained(address: str | None) -> Iterator[None]:
    """Turn what Ray's client raises into one message."""
    import requests
    from ray.exceptions import AuthenticationError

    shown = _address(address)
    try:
        yield
    except UserError:
        raise
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise UserError(
            f"no Ray dashboard answers at {shown} ({_last_line(error)}); start one with `ray start "
            "--head`, forward its port 8265, or name it with --address"
        ) from None
    except AuthenticationError:
        raise UserError(
            f"{shown} asks for a token, and none or another was given; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's"
        ) from None
    except RuntimeError as error:
        raise UserError(f"{shown}: {_last_line(error)}") from None


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__


def _known(api: Any, identity: str) -> None:
    ours = sorted(str(i.submission_id) for i in api.list_jobs() if (i.metadata or {}).get("raycomp"))
    if identity not in ours:
        there = ", ".join(ours[-5:]) or "none"
        raise UserError(f"job {identity!r} is not known to the cluster; raycomp's jobs there: {there}")


def _pack(folder: Path, work: Job | StudySpec, storage: str, installed: bool) -> None:
    """Write what is sent: the request, and raycomp's source where the cluster has none."""
    request: dict[str, Any] = {"version": VERSION, "installed": installed, "storage": storage}
    if isinstance(work, StudySpec):
        request |= {"study": work.source, "preset": work.preset}
    else:
        request |= {"job": work.model_dump(mode="json", exclude_unset=True)}
    (folder / REQUEST).write_text(json.dumps(request))
    if not installed:
        source = Path(__file__).parents[2]
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, folder / "raycomp", ignore=ignored)


def read_request() -> tuple[Job | StudySpec, str]:
    """Return job or study, and storage, of the request in the working directory: what the cluster runs.

    Raises:
        UserError: the cluster's image has another version of raycomp than the one that submitted.
    """
    request = json.loads(Path(REQUEST).read_text())
    if request["installed"] and request["version"] != VERSION:
        raise UserError(
            f"raycomp {request['version']} submitted this job, the cluster has {VERSION}; "
            "submit without --installed, or install the same version"
        )
    storage = str(request["storage"])
    if "study" in request:
        return parse_study(request["study"], request["preset"]), storage
    return parse_job(request["job"]), storage

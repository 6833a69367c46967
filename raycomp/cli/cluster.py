"""Commands that speak with a cluster through Ray's job API: submit, status, logs, stop."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycomp.cli.options import Address, AsJson, JobFile, JobId, Preset, Sets, load_work
from raycomp.cli.output import print_json


def submit(
    job: JobFile,
    storage: Annotated[
        str, typer.Option("--storage", help="Folder of the runs on the head node, or a URL.")
    ],
    sets: Sets = None,
    preset: Preset = "",
    address: Address = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the id and leave.")] = False,
    installed: Annotated[
        bool, typer.Option("--installed", help="The cluster's image has raycomp: send no source.")
    ] = False,
) -> None:
    """Run a job or a study on a Ray cluster; its output is shown here, its exit code is this command's.

    Example: raycomp submit jobs/quickstart.toml --address http://127.0.0.1:8265 --storage /mnt/runs
    """
    loaded = load_work(job, sets, preset)
    from raycomp.runtime.cluster import submission as cluster_jobs

    identity = cluster_jobs.submit(loaded, storage, address, installed=installed)
    if detach:
        print(identity)
        return
    print(f"job {identity}; ^C leaves it running, `raycomp stop {identity}` ends it", file=sys.stderr)
    _follow(identity, address)


def status(address: Address = None, as_json: AsJson = False) -> None:
    """List the jobs that were submitted to a cluster.

    Example: raycomp status --address http://127.0.0.1:8265
    """
    from raycomp.runtime.cluster import submission as cluster_jobs

    found = cluster_jobs.list_jobs(address)
    if as_json:
        print_json(found)
    elif not found:
        print("no job was submitted there")
    else:
        table = Table(box=None, pad_edge=False)
        for name in ("id", "status", "started", "took"):
            table.add_column(name)
        for row in found:
            began = datetime.fromtimestamp(row["started"], UTC)
            took = f"{(row['ended'] or time.time()) - row['started']:.0f} s"
            table.add_row(
                escape(row["id"]), row["status"].lower(), f"{began:%Y-%m-%d %H:%M:%S} UTC", took
            )
        Console(width=max(120, Console().width)).print(table)


def logs(
    identity: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """Print what a submitted job has written.

    Example: raycomp logs quickstart-1f3a9c02-5e6f7a8b --follow
    """
    from raycomp.runtime.cluster import submission as cluster_jobs

    if follow:
        _follow(identity, address)
    else:
        print(cluster_jobs.read_logs(identity, address), end="")


def stop(identity: JobId, address: Address = None) -> None:
    """Stop a submitted job; submitting it again goes on where it stopped.

    Example: raycomp stop quickstart-1f3a9c02-5e6f7a8b
    """
    from raycomp.runtime.cluster import submission as cluster_jobs

    print(f"job {identity}: {cluster_jobs.stop_job(identity, address).lower()}")


def _follow(identity: str, address: str | None) -> None:
    from raycomp.runtime.cluster import submission as cluster_jobs

    def write(text: str) -> None:
        print(text, end="", flush=True)

    code = cluster_jobs.follow_job(identity, address, write)
    if code:
        raise typer.Exit(code)

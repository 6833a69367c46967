"""Commands that use the job API of a Ray cluster: submit, status, logs, stop."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycomp.cli.options import Address, AsJson, JobId, Only, Preset, Sets, WorkFile, load_work
from raycomp.cli.output import print_json

if TYPE_CHECKING:
    from raycomp.api.submission import SubmittedJob


def submit(
    job: WorkFile,
    storage: Annotated[
        str,
        typer.Option("--storage", help="Absolute directory on the head node for the runs, or a URL."),
    ],
    sets: Sets = None,
    preset: Preset = "",
    only: Only = None,
    address: Address = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job id and return at once.")
    ] = False,
    installed: Annotated[
        bool,
        typer.Option("--installed", help="Use the raycomp of the cluster's image; upload no source."),
    ] = False,
) -> None:
    """Run a job or a study on a Ray cluster, print its output, and return its exit code.

    Example: raycomp submit jobs/quickstart.toml --address http://127.0.0.1:8265 --storage /mnt/runs
    """
    work = load_work(job, sets, preset, only)
    from raycomp.api.submission import submit_work

    submitted = submit_work(work, storage, address, installed=installed)
    if detach:
        print(submitted.id)
        return

    # On standard error: standard output is that of the job.
    print(
        f"Job {submitted.id} is submitted. Ctrl-C leaves it running; "
        f"`raycomp stop {submitted.id}` stops it.",
        file=sys.stderr,
    )
    _follow_job(submitted)


def status(address: Address = None, as_json: AsJson = False) -> None:
    """List the raycomp jobs of a cluster, the latest first.

    Example: raycomp status --address http://127.0.0.1:8265
    """
    from raycomp.runtime.cluster.submission import list_jobs

    rows = list_jobs(address)
    if as_json:
        print_json(rows)
    elif not rows:
        print("No raycomp job was submitted to this cluster.")
    else:
        _print_jobs(rows)


def _print_jobs(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("id", "status", "started", "took"):
        table.add_column(name)

    for row in rows:
        started = datetime.fromtimestamp(row["started"], UTC)
        seconds = (row["ended"] or time.time()) - row["started"]
        table.add_row(
            escape(row["id"]),
            row["status"].lower(),
            f"{started:%Y-%m-%d %H:%M:%S} UTC",
            f"{seconds:.0f} s",
        )

    # Job ids are long: a narrow terminal would break them, and they could not be copied.
    Console(width=max(120, Console().width)).print(table)


def logs(
    identity: JobId,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new output until the job ends.")
    ] = False,
) -> None:
    """Print the output of a submitted job.

    Example: raycomp logs quickstart-1f3a9c02-5e6f7a8b --follow
    """
    from raycomp.api.submission import SubmittedJob

    submitted = SubmittedJob(identity, address)
    if follow:
        _follow_job(submitted)
    else:
        print(submitted.logs(), end="")


def stop(identity: JobId, address: Address = None) -> None:
    """Stop a submitted job. Submit the same job again to resume it.

    Example: raycomp stop quickstart-1f3a9c02-5e6f7a8b
    """
    from raycomp.api.submission import SubmittedJob

    print(f"Job {identity}: {SubmittedJob(identity, address).stop().lower()}")


def _follow_job(submitted: SubmittedJob) -> None:
    """Print a job's output until it ends, and exit with its exit code if that is not 0."""

    # Flushed: the output is watched while it comes.
    def write(text: str) -> None:
        print(text, end="", flush=True)

    code = submitted.follow(write)
    if code:
        raise typer.Exit(code)

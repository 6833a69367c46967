"""The `raycomp` command: messages for people, and JSON for scripts with --json."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycomp.cli.cluster import logs, status, stop, submit
from raycomp.cli.export import export
from raycomp.cli.options import (
    AsJson,
    Gpus,
    JobFile,
    Only,
    Preset,
    RunPlace,
    Sets,
    Storage,
    WorkFile,
    load_work,
)
from raycomp.cli.output import (
    list_rows,
    print_frame,
    print_json,
    print_plan,
    print_study,
    relative_to_cwd,
)
from raycomp.cli.predict import predict
from raycomp.cli.profile import profile
from raycomp.cli.run_output import print_run
from raycomp.cli.serve import serve
from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.config.study import StudySpec
from raycomp.errors import UserError, shown

if TYPE_CHECKING:
    from raycomp.runtime.cluster.progress import Progress

# Before transformers or tokenizers is imported: they read these once.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    name="raycomp",
    help="Compress a fine-tuned encoder once on Ray, then deploy it under every budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

USER_ERROR = 2
INTERRUPTED = 130
FILE_REMEDIES = {
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Name a file.",
    errno.EEXIST: "Remove it, or name another path.",
    errno.EACCES: "Give this user access to it, or name another path.",
    errno.EPERM: "Give this user access to it, or name another path.",
    errno.EROFS: "Name a path on a storage that can be written.",
    errno.ENOSPC: "Free space there, then run the same command again.",
    errno.EDQUOT: "Free space there, then run the same command again.",
}
"""What to do about an error of the operating system about a file."""

LONGEST_LINE = 4000
"""Characters of an error message on one line; a longer message is cut."""


def main() -> None:
    """Run the command line.

    A `UserError` becomes one message and exit code 2; Ctrl-C becomes exit code 130.
    """
    # The package prints nothing by itself. A command shows its warnings on standard error.
    if logging.lastResort is not None:
        logging.getLogger("raycomp").addHandler(logging.lastResort)
    try:
        app()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"Error: {shown(line, LONGEST_LINE)}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except OSError as error:
        # An error without a file, such as a lost connection, is not a mistake of the user's.
        if error.filename is None:
            raise
        name = shown(str(error.filename))
        remedy = FILE_REMEDIES.get(error.errno or 0, "Check the file and the device that it is on.")
        print(f"Error: Cannot use {name}: {error.strerror}. {remedy}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except SystemExit as error:
        # Typer turns KeyboardInterrupt into this exit code.
        if error.code == INTERRUPTED:
            print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        raise


@app.command()
def plan(
    job: JobFile,
    sets: Sets = None,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", help="Number of machines to forecast for.", min=1, max=10_000),
    ] = None,
    gpus: Gpus = 0,
    price: Annotated[
        float | None,
        typer.Option("--price-per-hour", help="Price of one machine for one hour.", min=0, max=1e6),
    ] = None,
    gigabits: Annotated[
        float,
        typer.Option("--bandwidth", help="Network between machines in Gbit/s.", min=0.1, max=1e5),
    ] = 25.0,
    runs: Annotated[
        Path,
        typer.Option("--runs", help="Directory of earlier runs, whose measured step times are used."),
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Predict the size, time and cost of a job without running it.

    Example: raycomp plan jobs/quickstart.toml --nodes 8 --price-per-hour 3
    """
    from raycomp.api.session import check_references
    from raycomp.runtime.pipeline.forecast import Machines
    from raycomp.runtime.pipeline.plan import make_plan

    # Without any of these options the plan is for this machine.
    machines = None
    if nodes is not None or gpus > 0 or price is not None:
        machines = Machines(nodes or 1, gpus, price, gigabits)

    settings = load_job(job, sets)
    check_references(settings)
    prediction = make_plan(settings, machines, runs)
    if as_json:
        print_json(prediction)
    else:
        print_plan(prediction)

    # A script can tell an infeasible budget from an error, whose exit code is 2.
    if any(budget["feasible"] is False for budget in prediction["budgets"]):
        raise typer.Exit(1)


@app.command()
def run(
    job: WorkFile,
    sets: Sets = None,
    storage: Storage = "runs",
    as_json: AsJson = False,
    preset: Preset = "",
    only: Only = None,
) -> None:
    """Run a job or a study. After an interruption, the same command resumes it.

    Example: raycomp run jobs/quickstart.toml --set run.seed=1
    """
    work = load_work(job, sets, preset, only)
    from raycomp.runtime.cluster.progress import Progress
    from raycomp.storage.location import is_url

    # A log gets a line every ten seconds, a terminal gets bars. With --json the output is for a program.
    progress = Progress(enabled=False) if as_json else Progress(lines=not sys.stderr.isatty())
    directory = _run_work(work, storage, progress, as_json)
    if is_url(storage) and not as_json:
        print(f"Copied to {storage} as {directory.name}.")


def _run_work(work: Job | StudySpec, storage: str, progress: Progress, as_json: bool) -> Path:
    """Run a job or a study, print its table, and return its directory."""
    from raycomp.api.session import run_work

    directory = run_work(work, storage, progress)
    if isinstance(work, StudySpec):
        print_study(directory, as_json)
    else:
        print_run(directory, as_json)
    return directory


@app.command("run-request", hidden=True)
def run_request() -> None:
    """Run the request in the working directory: the part of `submit` that the cluster executes."""
    from raycomp.runtime.cluster.progress import Progress
    from raycomp.runtime.cluster.submission import read_request

    work, storage = read_request()
    progress = Progress(enabled=False, lines=True)
    title = f"study {work.id}" if isinstance(work, StudySpec) else f"run {work.run_id}"
    progress.say(f"{title} on {os.uname().nodename}")
    _run_work(work, storage, progress, False)


@app.command()
def query(
    run: RunPlace,
    where: Annotated[
        str | None,
        typer.Option("--where", help='Condition on the rows, such as "params < 12e6 and feasible".'),
    ] = None,
    best: Annotated[
        str | None,
        typer.Option("--best", metavar="COLUMN", help="Print only the row with the highest value here."),
    ] = None,
    table: Annotated[
        str,
        typer.Option(
            "--table",
            help="Table to read: deployments, costs, runtimes, evaluations, steps, distribution, or "
            "ablations of a study.",
        ),
    ] = "deployments",
    limit: Annotated[int, typer.Option("--limit", help="Largest number of rows to print.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Filter a table of a run, also while the run is in progress.

    Example: raycomp query runs/quickstart-1f3a9c02 --where "params < 12e6 and feasible" --best selection
    """
    from raycomp.api.tables import read_rows, require_run
    from raycomp.storage.location import fetched, is_figure
    from raycomp.storage.study_layout import StudyLayout

    run_dir = fetched(run, is_figure)
    # A study has one table of its own, and its runs have the others.
    is_study_table = table == "ablations" and StudyLayout(run_dir).study.exists()
    if not is_study_table:
        require_run(run_dir)
    frame = read_rows(run_dir, table, where, best)

    if as_json:
        print_json(list_rows(frame))
        return

    if frame.empty:
        print("No row matches.")
        return

    print_frame(frame.head(limit))
    if len(frame) > limit:
        more = len(frame) - limit
        print(f"{more:,} more rows. --limit {len(frame)} prints them all, and so does --json.")


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run directories, storage directories, or their URLs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Page to write. Default: RUN/report.html."),
    ] = None,
    growth: Annotated[
        Path | None,
        typer.Option(
            "--growth",
            metavar="FILE",
            help="Result of benchmarks.growth; adds plots of cost over cluster size.",
        ),
    ] = None,
) -> None:
    """Write an HTML page about one or several runs, also while they are in progress.

    Example: raycomp report runs/quickstart-1f3a9c02
    """
    from raycomp.report import write_report
    from raycomp.storage.layout import RunLayout
    from raycomp.storage.location import is_url

    # The page of one run belongs to its directory; several runs or a URL leave the place open.
    if out is None:
        if len(runs) > 1:
            raise UserError(
                "A page about several runs needs a file name. Name it with --out, such as "
                "--out report.html."
            )
        if is_url(runs[0]):
            raise UserError(
                "A page about the run of a URL needs a file name. Name it with --out, such as "
                "--out report.html."
            )
        out = RunLayout(Path(runs[0])).report

    print(relative_to_cwd(write_report(runs, out, growth)))


for command in (profile, export, predict, serve, submit, status, logs, stop):
    app.command()(command)


if __name__ == "__main__":
    main()

"""The command line: messages for people, figures with --json for scripts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycomp.cli.cluster import logs, status, stop, submit
from raycomp.cli.options import AsJson, JobFile, Preset, RunPlace, Sets, Storage, load_work
from raycomp.cli.output import print_frame, print_json, print_plan, relative_to_cwd, show_run, show_study
from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.config.study import StudySpec
from raycomp.errors import UserError, shown

if TYPE_CHECKING:
    from raycomp.runtime.cluster.progress import Progress

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

INTERRUPTED = 130


def main() -> None:
    """Run the command line; a user's mistake is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {shown(line, 4000)}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.filename is None:
            raise
        name = shown(str(error.filename))
        print(f"error: {name} cannot be used: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    except SystemExit as error:
        if error.code == INTERRUPTED:  # as typer says ^C
            print("interrupted; the same command goes on from here", file=sys.stderr)
        raise


@app.command()
def plan(
    job: JobFile,
    sets: Sets = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", help="Machines to say time and cost on.", min=1, max=10_000)
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of each machine.", min=0, max=64)] = 0,
    price: Annotated[
        float | None, typer.Option("--price-per-hour", help="Of one machine.", min=0, max=1e6)
    ] = None,
    gigabits: Annotated[
        float, typer.Option("--bandwidth", help="Gigabits a second between machines.", min=0.1, max=1e5)
    ] = 25.0,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder of runs: their measured steps are used.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Say what a job would do, before anything is spent.

    Example: raycomp plan jobs/quickstart.toml --nodes 8 --gpus 8 --price-per-hour 30
    """
    from raycomp.runtime.pipeline.forecast import Machines
    from raycomp.runtime.pipeline.plan import make_plan

    asked = nodes is not None or gpus > 0 or price is not None
    machines = Machines(nodes or 1, gpus, price, gigabits) if asked else None
    found = make_plan(load_job(job, sets), machines, runs)
    if as_json:
        print_json(found)
    else:
        print_plan(found)
    if not all(b["feasible"] for b in found["budgets"]):
        raise typer.Exit(1)


@app.command()
def run(
    job: JobFile,
    sets: Sets = None,
    storage: Storage = "runs",
    as_json: AsJson = False,
    preset: Preset = "",
) -> None:
    """Run a job or a study to its end; the same command goes on after an interruption.

    Example: raycomp run jobs/quickstart.toml --set run.seed=1
    """
    loaded = load_work(job, sets, preset)
    from raycomp.runtime.cluster.progress import Progress
    from raycomp.storage.location import is_url

    name = _run(loaded, storage, Progress(enabled=False if as_json else None), as_json)
    if is_url(storage) and not as_json:
        print(f"copied to {storage}, as {name}")


def _run(work: Job | StudySpec, storage: str, progress: Progress, as_json: bool) -> str:
    """Run a job or a study, write its page, show its table; return its folder's name."""
    from raycomp.storage.location import opened

    if isinstance(work, StudySpec):
        from raycomp.report import write_report
        from raycomp.runtime.studies.study import run_study

        with opened(storage, work.id) as place:
            folder = run_study(work, place, progress)
            write_report([folder], folder / "report.html")
            show_study(folder, as_json)
        return work.id
    from raycomp.runtime.pipeline.run import run_job

    with opened(storage, work.run_id) as place:
        finish_run(run_job(work, place, progress), as_json)
    return work.run_id


@app.command("run-request", hidden=True)
def run_request() -> None:
    """Run what was submitted: the cluster's side of `submit`."""
    from raycomp.runtime.cluster.progress import Progress
    from raycomp.runtime.cluster.submission import read_request

    loaded, storage = read_request()
    progress = Progress(enabled=False, lines=True)
    what, name = ("study", loaded.id) if isinstance(loaded, StudySpec) else ("run", loaded.run_id)
    progress.say(f"{what} {name} on {os.uname().nodename}")
    _run(loaded, storage, progress, False)


@app.command()
def query(
    run: RunPlace,
    where: Annotated[
        str | None, typer.Option("--where", help='Such as "params < 12e6 and feasible".')
    ] = None,
    best: Annotated[
        str | None, typer.Option("--best", help="Only the row with the highest value here.")
    ] = None,
    table: Annotated[
        str,
        typer.Option(
            "--table", help="deployments, evaluations, steps, distribution; ablations of a study."
        ),
    ] = "deployments",
    limit: Annotated[int, typer.Option("--limit", help="Rows to print.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Filter a run's tables; works while the run is still writing.

    Example: raycomp query runs/quickstart-1f3a9c02 --where "params < 12e6 and feasible" --best validation
    """
    from raycomp.report import query as language
    from raycomp.storage.location import fetched, is_figure
    from raycomp.storage.tables import read_table

    run_dir = fetched(run, is_figure)
    if table != "ablations" or not (run_dir / "study.json").exists():
        _check_run(run_dir)
    frame = read_table(run_dir, table)
    if where is not None:
        frame = language.filter_rows(frame, where)
    if best is not None:
        values = language.get_column(frame, best)
        if values.dtype.kind not in "iufb":
            raise UserError(f"--best {best!r} is no column of numbers")
        frame = frame.loc[[values.idxmax()]] if values.notna().any() else frame.iloc[:0]
    if as_json:
        print_json(json.loads(frame.to_json(orient="records", date_format="iso")))
        return
    if frame.empty:
        print("no row matches")
        return
    print_frame(frame.head(limit))
    if len(frame) > limit:
        print(f"{len(frame) - limit:,} more rows; --limit {len(frame)} shows them, --json all")


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders or URLs of runs, or of a storage.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page; RUN/report.html for one run.")
    ] = None,
    growth: Annotated[
        Path | None,
        typer.Option("--growth", metavar="FILE", help="Of benchmarks.growth: draw how cost grows."),
    ] = None,
) -> None:
    """Write one HTML page on one or several runs; works while they run.

    Example: raycomp report runs/quickstart-1f3a9c02
    """
    from raycomp.report import write_report
    from raycomp.storage.location import is_url

    if out is None:
        if len(runs) > 1:
            raise UserError("several runs were given; name the page with --out FILE.html")
        if is_url(runs[0]):
            raise UserError("a URL was given; name the page with --out FILE.html")
        out = Path(runs[0]) / "report.html"
    print(relative_to_cwd(write_report(runs, out, growth)))


@app.command()
def export(
    run: RunPlace,
    budget: Annotated[str, typer.Option("--budget", help="Name of the budget.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the model.")],
    as_json: AsJson = False,
) -> None:
    """Write a budget's model to a folder of your own; it loads in plain transformers.

    Example: raycomp export runs/quickstart-1f3a9c02 --budget half --out models/half
    """
    from raycomp.runtime.pipeline.reexport import export_budget
    from raycomp.storage.location import fetched

    run_dir = fetched(run)
    _check_run(run_dir)
    proof = export_budget(run_dir, budget, out)
    if as_json:
        print_json(proof)
    else:
        print(f"{out}: {proof['params']:,} parameters, logits within {proof['parity']:.1g} of the run's")


for command in (submit, status, logs, stop):
    app.command()(command)


def _check_run(run_dir: Path) -> None:
    if not (run_dir / "job.json").exists():
        near = ", ".join(sorted(p.name for p in run_dir.parent.glob("*-????????"))[:5])
        hint = f"; in {run_dir.parent} there are: {near}" if near else ""
        raise UserError(f"{run_dir} is no run's folder{hint}")


def finish_run(run_dir: Path, as_json: bool) -> None:
    """Write a finished run's page and print its teacher, its deployments, and where all lies."""
    from raycomp.report import write_report

    write_report([run_dir], run_dir / "report.html")
    show_run(run_dir, as_json)


if __name__ == "__main__":
    main()

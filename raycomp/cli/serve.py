"""The command `raycomp serve`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from raycomp.cli.options import AllowCode, RunPlace

if TYPE_CHECKING:
    from raycomp.runtime.serving.application import ServerOutcome


def serve(
    run: RunPlace,
    budgets: Annotated[
        str,
        typer.Option(
            "--budgets",
            metavar="NAMES",
            help="Models to serve, with commas: budgets, METHOD-BUDGET, or teacher. Default: the teacher "
            "and all budgets.",
        ),
    ] = "",
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnxruntime-int8, onnxruntime or torch.")
    ] = "onnxruntime-int8",
    p95_ms: Annotated[
        float | None,
        typer.Option(
            "--p95-ms",
            help="Largest 95th percentile of the answer times in milliseconds. Under load, smaller "
            "networks answer to keep it. Default: the most accurate network answers.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.", min=1, max=65_535)] = 8000,
    replicas: Annotated[
        int, typer.Option("--replicas", help="Processes that answer, each with all models.", min=1)
    ] = 1,
    threads: Annotated[
        int,
        typer.Option(
            "--threads", help="CPU threads of a replica. 0: an equal share of this machine.", min=0
        ),
    ] = 0,
    allow_code: AllowCode = False,
) -> None:
    """Answer HTTP requests with the models of a run, on Ray Serve. Ctrl-C stops the server.

    Example: raycomp serve runs/quickstart-1f3a9c02 --budgets teacher,half --p95-ms 50
    """
    from raycomp.api.run import open_run
    from raycomp.deployment.serving.settings import read_serve_settings
    from raycomp.runtime.serving.server import serve_run

    settings = read_serve_settings(budgets, runtime, p95_ms, host, port, replicas, threads)
    settings = replace(settings, allow_code=allow_code)
    run_dir = open_run(run).local_directory()
    # A pipe gets each line when it is said.
    outcome = serve_run(run_dir, settings, lambda line: print(line, flush=True))
    print(_describe_outcome(outcome))


def _describe_outcome(outcome: ServerOutcome) -> str:
    """Return the last line of the command."""
    if not outcome.refused:
        return f"Stopped. All {outcome.answered:,} accepted requests were answered."
    return (
        f"Stopped before all requests were answered: {outcome.answered:,} accepted requests were "
        f"answered, and {outcome.refused:,} got status 503."
    )

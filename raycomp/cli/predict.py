"""The command `raycomp predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raycomp.cli.options import AsJson, RunPlace
from raycomp.cli.output import print_json, relative_to_cwd

Budget = Annotated[str, typer.Option("--budget", help='Name of the budget, METHOD-BUDGET, or "teacher".')]
SplitName = Annotated[
    str, typer.Option("--split", help="Split of the task without labels, or a split of the run.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="File with the task's text columns, instead of a split."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Directory. Default: RUN/predicted/METHOD-BUDGET."),
]


def predict(
    run: RunPlace,
    budget: Budget,
    split: SplitName = "test",
    data: Data = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Write the predictions of a deployed model; for GLUE tasks in the format of GLUE's test server.

    Example: raycomp predict runs/mrpc-1f3a9c02 --budget half --split test
    """
    from raycomp.api.run import open_run

    paths = open_run(run).deployment(budget).predict(split, data=data, out=out, say=_show_note)
    if as_json:
        print_json([str(path) for path in paths])
        return
    for path in paths:
        print(relative_to_cwd(path.resolve()))


def _show_note(note: str) -> None:
    # The output may be read by a script, as the files or as JSON.
    print(f"Note: {note}", file=sys.stderr)

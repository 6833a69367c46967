"""Options that several commands share, and the reading of a job file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.config.study import StudySpec, is_study_file, load_study_file
from raycomp.errors import UserError

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (TOML).")]
WorkFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file or study file (TOML).")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one setting, such as train.epochs=2. Repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Storage = Annotated[
    str,
    typer.Option(
        "--storage", help="Directory for the run directories, or a URL such as s3://bucket/runs."
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="Preset of a study file. On two CPU cores, small takes about ten minutes for most studies, "
        "and hours for methods.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="PATTERN",
        help="Execute only the runs of a study whose names match, such as '*-glue-mrpc-s0'. Repeatable.",
    ),
]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus",
        help="GPUs per machine. A forecast for GPUs needs an earlier run with measured steps on one "
        "(--runs).",
        min=0,
        max=64,
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import the metric function that the run names, to score files. It runs code: use it for "
        "runs that you trust. Without it, another metric of the run scores them.",
    ),
]
RunPlace = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory, such as runs/NAME-HASH, or its URL.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Dashboard of the cluster. Default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Job id that `raycomp submit` printed.")]


def load_work(path: Path, sets: list[str] | None, preset: str, only: list[str] | None) -> Job | StudySpec:
    """Read a job file or a study file.

    Args:
        path: File that the user named.
        sets: Overrides of the form KEY=VALUE.
        preset: Preset of a study; empty for none.
        only: Patterns of the runs of a study to execute; none for all.

    Raises:
        UserError: The file is not valid, or an option of studies was given for another file.
    """
    # Run and submit take both kinds of file.
    if is_study_file(path):
        return load_study_file(path, sets, preset).choose(only or [])

    option = ""
    if preset:
        option = f"--preset {preset!r}"
    elif only:
        option = f"--only {only[0]!r}"
    if option:
        raise UserError(
            f"The option {option} applies to studies only, and {path} lacks a [study] section. Leave the "
            "option out."
        )

    return load_job(path, sets)

"""What several commands of the command line take, and how they read a job file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.config.study import StudySpec, is_study_file, load_study_file
from raycomp.errors import UserError

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="Job file (TOML).")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set train.epochs=2"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Storage = Annotated[
    str, typer.Option("--storage", help="Folder that holds the runs, or a URL such as s3://bucket/runs.")
]
Preset = Annotated[str, typer.Option("--preset", help="Of a study: small ends in minutes on two cores.")]
RunPlace = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, such as runs/NAME-HASH, or its URL.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Dashboard of the cluster; RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265 by default.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="What `raycomp submit` printed.")]


def load_work(path: Path, sets: list[str] | None, preset: str) -> Job | StudySpec:
    """Read a job file, which may hold a study.

    Raises:
        UserError: as `load_job` and `load_study_file`; or a preset of what is no study.
    """
    if is_study_file(path):
        return load_study_file(path, sets, preset)
    if preset:
        raise UserError(
            f"--preset {preset!r} was given, but {path} is no study: it has no [study] section"
        )
    return load_job(path, sets)

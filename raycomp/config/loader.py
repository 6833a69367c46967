"""Job files: read TOML, apply `--set a.b=c`, and check the result against the schema."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from raycomp.config.bounds import reject_extreme_values
from raycomp.config.job import Job, job_schema
from raycomp.config.messages import describe_errors
from raycomp.config.overrides import apply_overrides
from raycomp.config.renames import current_names
from raycomp.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
MAX_JOB_BYTES = 2**16

LATER_SETTINGS: dict[str, dict[str, Any]] = {
    "adabert": {"exact_match": False, "alpha_updates": 0, "candidates": 0},
    "cofi": {"match": "uniform"},
    "dynabert": {"tolerance": 0.0},
    "hat": {"choose_by": "score"},
    "heal": {"rounds": 1},
    "pkd": {"patience": "sum"},
}
"""Settings that the job.json of older runs does not have, with the values of those runs."""

LATER_SECTIONS: dict[str, dict[str, Any]] = {"heal": {"steps": 0}}
"""Sections that the job.json of older runs does not have, with the settings of those runs."""


def load_job(path: str | Path, overrides: Sequence[str] | None = None) -> Job:
    """Read a job file and apply overrides.

    Args:
        path: TOML file.
        overrides: Settings such as "train.epochs=2", in order.

    Raises:
        UserError: The file is missing, too large or not TOML, or a setting is unknown or not allowed.

    Example:
        >>> load_job("jobs/quickstart.toml", ["run.seed=1"]).run.seed
        1
    """
    data = current_names(read_toml(path))
    if "study" in data:
        raise UserError(
            f"{path} is a study file, a grid of jobs. Use `raycomp run` or `raycomp submit` with it."
        )
    apply_overrides(data, overrides or [])
    return parse_job(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a job file as nested dicts, unchecked.

    Raises:
        UserError: The file is missing, too large or not TOML.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JOB_BYTES + 1)
        if len(raw) > MAX_JOB_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_JOB_BYTES // 1024} KiB, so it is not read as a job file. "
                "Check the path."
            )
        # Editors of Windows write a byte order mark.
        return parse_toml(raw.decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"Job file {path} does not exist. Check the path; jobs/README.md lists ready job files."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Job file {path} cannot be read: {error}. Check the path and the file."
        ) from None
    except ValueError as error:
        raise UserError(f"Job file {path} is not valid TOML: {error}. Correct this line.") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: The text is not TOML, or it is nested too deeply for Python's parser.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_job(data: dict[str, Any]) -> Job:
    """Check a job that is given as nested dicts.

    Raises:
        UserError: Settings are unknown or not allowed. The message has a line for each of them.
    """
    data = current_names(data)
    return parse(job_schema(data), data)


def parse_stored(data: dict[str, Any]) -> Job:
    """Check the job.json of a run. Settings that joined later have the values of the time of the run.

    Raises:
        UserError: As `parse_job`.
    """
    data = current_names(data, note=False)
    for section, later in LATER_SETTINGS.items():
        settings = data.get(section) if isinstance(data, dict) else None
        # In a damaged file the section can be anything; parse_job names it.
        if isinstance(settings, dict):
            data = {**data, section: {**later, **settings}}
    if isinstance(data, dict):
        data = {**LATER_SECTIONS, **data}
    return parse_job(data)


def parse(schema: type[Model], data: dict[str, Any]) -> Model:
    """Check nested dicts against a schema.

    Raises:
        UserError: As `parse_job`.
    """
    reject_extreme_values(data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise UserError(describe_errors(error, data, schema)) from None

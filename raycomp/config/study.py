"""Study files: a job file with a [study] section, and the grid of jobs that it defines.

Each combination of variant, task and seed is a study run, and a study run is an ordinary job. So a
study measures what an ordinary run of that job measures.
"""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycomp.config.flatten import flatten_settings
from raycomp.config.identity import artifact_keys
from raycomp.config.job import Job
from raycomp.config.loader import parse, parse_job, read_toml
from raycomp.config.messages import nearest_name
from raycomp.config.overrides import apply_overrides, put
from raycomp.config.renames import current_names, reject_both_names
from raycomp.config.study_settings import StudyFile, StudySettings, Variant
from raycomp.errors import UserError
from raycomp.methods.registry import load_settings

PRESETS = ("small",)

SET_BY_STUDY = ("run.seed", "run.name")
"""Settings that a variant cannot have, because the study sets them."""

MAX_NAME = 64


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        variant: Name of the variant.
        task: Name of the task.
        seed: Seed, the job's run.seed.
        job: The job. With `structure_of`, its structure is a placeholder.
        structure_of: Task whose searched structure the run trains, or None.
        fresh: Whether the run takes only the teacher from earlier runs.
    """

    variant: str
    task: str
    seed: int
    job: Job
    structure_of: str | None = None
    fresh: bool = False

    @property
    def name(self) -> str:
        """Name of the study run in file names."""
        return f"{self.variant}-{slug(self.task)}-s{self.seed}"

    def with_structure(self, structure: str) -> StudyRun:
        """Return the study run with a structure (JSON) in place of the placeholder."""
        data = self.job.model_dump(mode="json")
        data["adabert"]["structure"] = structure
        return replace(self, job=parse_job(data), structure_of=None)

    @property
    def artifact_keys(self) -> dict[str, str]:
        """Keys of the artifacts that the run can share with other runs."""
        keys = artifact_keys(self.job)
        if self.fresh:
            return {"teacher": keys["teacher"]}
        return keys


@dataclass(frozen=True)
class StudySpec:
    """A study file, checked and expanded.

    Attributes:
        settings: The section [study].
        runs: All study runs: variants in order, then tasks, then seeds.
        preset: Preset that was applied, or an empty text.
        source: The file with preset and overrides applied, as nested dicts. `parse_study` reads it again.
        only: Patterns of the names of the runs to execute now, such as "*-glue-mrpc-s0"; empty for all.
            The study stays the same one: it has the same directory, and other runs can follow later.
    """

    settings: StudySettings
    runs: tuple[StudyRun, ...]
    preset: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name of the study directory, `<name>-<identity>`. The identity covers the jobs of all runs."""
        identities = [
            [run.variant, run.task, run.seed, run.structure_of, run.fresh, run.job.identity()]
            for run in self.runs
        ]
        text = json.dumps(identities, separators=(",", ":"))
        return f"{self.settings.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def chosen_runs(self) -> tuple[StudyRun, ...]:
        """The runs to execute now, in the order of the study."""
        if not self.only:
            return self.runs
        return tuple(run for run in self.runs if any(fnmatch.fnmatchcase(run.name, p) for p in self.only))

    def choose(self, patterns: Sequence[str]) -> StudySpec:
        """Return the same study, of which only the runs with matching names are executed.

        Args:
            patterns: Names or patterns with `*`, such as "*-glue-mrpc-s0"; empty for all runs.

        Raises:
            UserError: A pattern matches no run.
        """
        names = [run.name for run in self.runs]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                nearest = nearest_name(pattern, names) or names[0]
                raise UserError(
                    f"No run of the study {self.settings.name} has a name like {pattern!r}. A name is "
                    f"VARIANT-TASK-sSEED, such as {nearest!r}. A * matches any text."
                )
        return replace(self, only=tuple(patterns))


def is_study_file(path: str | Path) -> bool:
    """Return whether a job file has a [study] section."""
    return "study" in read_toml(path)


def load_study_file(
    path: str | Path, overrides: Sequence[str] | None = None, preset: str = ""
) -> StudySpec:
    """Read a study file, then apply a preset, then overrides.

    Args:
        path: TOML file.
        overrides: Settings such as "study.seeds=[0]", in order.
        preset: Name of a preset, or an empty text.

    Raises:
        UserError: As `load_job`; the preset does not exist; or the settings of a variant are not a job.

    Example:
        >>> study = load_study_file("jobs/studies/search.toml", ["study.seeds=[0]"])
        >>> [run.name for run in study.runs]
        ['sng-glue-mrpc-s0', 'random-glue-mrpc-s0', 'evolution-glue-mrpc-s0']
    """
    data = current_names(read_toml(path))
    # Before preset and overrides, which may remove tasks that have published scores.
    _check_published(data)
    if preset:
        settings = _preset_settings(data, preset, path)
        for key, value in flatten_settings(settings, split_tables=False).items():
            put(data, key, value, f"study.{preset}")
    apply_overrides(data, overrides or [])
    return parse_study(data, preset)


def _preset_settings(data: dict[str, Any], preset: str, path: str | Path) -> dict[str, Any]:
    study = data.get("study")
    settings = None
    if isinstance(study, dict) and preset in PRESETS:
        settings = study.get(preset)
    if not isinstance(settings, dict):
        raise UserError(
            f"{path} does not define preset {preset!r}: the section [study.{preset}] is missing. "
            f"Presets: {', '.join(PRESETS)}, if the study has that section."
        )
    return settings


def _check_published(data: dict[str, Any]) -> None:
    """Raise UserError if `study.published` has a task or a variant that the study does not have."""
    settings = parse(StudyFile, {"study": data.get("study", {})}).study
    unknown_tasks = sorted(set(settings.published) - set(settings.tasks))
    if settings.tasks and unknown_tasks:
        raise UserError(
            f"study.published has the task {unknown_tasks[0]!r}, which is not in study.tasks. Tasks: "
            f"{', '.join(settings.tasks)}."
        )

    names = [variant.name for variant in settings.variant]
    for task, scores in settings.published.items():
        unknown_variants = sorted(set(scores) - {*names, "teacher"})
        if not unknown_variants:
            continue
        nearest = nearest_name(unknown_variants[0], names)
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        raise UserError(
            f"study.published of {task} has the variant {unknown_variants[0]!r}, which does not "
            f"exist.{hint} Variants: {', '.join(names)}, and teacher."
        )


def parse_study(data: dict[str, Any], preset: str = "") -> StudySpec:
    """Check a study that is given as nested dicts, and expand it.

    Raises:
        UserError: As `load_study_file`.
    """
    settings = parse(StudyFile, {"study": data.get("study", {})}).study
    base = current_names({name: value for name, value in data.items() if name != "study"})
    tasks: list[str | None] = [*settings.tasks] or [None]
    runs = tuple(
        _make_run(base, settings, variant, task, seed)
        for variant in settings.variant
        for task in tasks
        for seed in settings.seeds
    )
    _check_names(runs)
    return StudySpec(settings, runs, preset, data)


def _check_names(runs: Sequence[StudyRun]) -> None:
    """Raise UserError if the names of two tasks become the same file name."""
    tasks: dict[str, str] = {}
    for run in runs:
        other = tasks.setdefault(run.name, run.task)
        if other != run.task:
            raise UserError(
                f"The tasks {other!r} and {run.task!r} of study.tasks have the same file name, "
                f"{run.name}. Rename one of them, or put them into two studies."
            )


def _make_run(
    base: dict[str, Any], settings: StudySettings, variant: Variant, task: str | None, seed: int
) -> StudyRun:
    """Return one study run.

    Args:
        base: The file without its [study] section.
        settings: The section [study].
        variant: The variant.
        task: The task; None for the task of the file.
        seed: The seed.
    """
    data = copy.deepcopy(base)
    source = f"Study variant {variant.name!r}"
    if task is not None:
        data.setdefault("task", {})
        put(data, "task.name", task, "study.tasks")
    _apply_variant(data, variant, source)
    put(data, "run.seed", seed, source)
    label = _task_label(data)
    name = f"{settings.name}-{variant.name}-{slug(label)}-s{seed}"
    put(data, "run.name", name[:MAX_NAME], source)

    try:
        job = parse_job(data)
    except UserError as error:
        lines = [f"{source}: {line}" for line in str(error).splitlines()]
        raise UserError("\n".join(lines)) from None
    if variant.structure_of is not None and job.run.methods != ["adabert"]:
        raise UserError(
            f'{source} has structure_of, which only AdaBERT uses. Set run.methods = ["adabert"] for it.'
        )
    with_budgets = [name for name in job.run.methods if load_settings(name).needs_budget]
    if len(with_budgets) > 1:
        raise UserError(
            f"{source} has the methods {', '.join(with_budgets)}, which share the budgets. The tables of "
            "a study cannot tell them apart. Give each method a variant of its own."
        )
    return StudyRun(variant.name, label, seed, job, variant.structure_of, variant.fresh)


def _apply_variant(data: dict[str, Any], variant: Variant, source: str) -> None:
    """Apply the settings of a variant in place."""
    changes = flatten_settings(variant.set, split_tables=False)
    reject_both_names(changes)
    for key, value in changes.items():
        if key in SET_BY_STUDY:
            raise UserError(
                f"{source} sets {key}, which the study sets. Use study.seeds and study.name instead."
            )
        put(data, key, copy.deepcopy(value), source)
    if variant.structure_of is not None:
        # A placeholder until the search has found the structure.
        put(data, "adabert.structure", "random:0", source)


def _task_label(data: dict[str, Any]) -> str:
    """Return the name of the task, or the name of its training file."""
    task = data.get("task")
    if not isinstance(task, dict):
        return str(None)
    if task.get("train"):
        return Path(str(task.get("name") or task["train"])).name
    return str(task.get("name"))


def slug(text: str) -> str:
    """Return a text as a part of a file name.

    Example:
        >>> slug("glue/mrpc")
        'glue-mrpc'
    """
    stem = Path(text).stem if "." in text else text
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")

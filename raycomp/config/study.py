"""A study: one job file with a [study] section, and the grid of jobs that it stands for.

The file is an ordinary job with variants of its settings. Each (variant, task, seed) is a cell, and a
cell is an ordinary job: what a study measures, a run of that job measures too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raycomp.config.flatten import flatten_settings
from raycomp.config.job import NON_IDENTITY_KEYS, Job
from raycomp.config.loader import apply_overrides, nearest_key, parse, parse_job, put, read_toml
from raycomp.config.renames import current_names, original_names, reject_both_names
from raycomp.config.section import Section, plain_name
from raycomp.errors import UserError

PRESETS = ("small",)


class Variant(Section):
    """One column or row of the paper's table: the settings in which it differs from the file's."""

    name: str = Field(description="Name of the variant.")
    set: dict[str, Any] = Field({}, description="Settings, such as { train.mode = 'exploit' }.")
    structure_of: str | None = Field(
        None,
        description="A task of the study: train the structure that the first variant found there.",
    )
    fresh: bool = Field(
        False,
        description="Take over no more than the teacher, though an equal super-network is there: where "
        "cost is measured.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)


class StudySettings(Section):
    """A grid over variants, tasks and seeds."""

    name: str = Field(description="Name of the study; its folder is NAME-HASH.")
    paper: str = Field("", description="The table that it sets beside the paper's.")
    tasks: list[str] = Field([], description="Tasks by name; the file's own task when empty.")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="run.seed of each repetition.")
    rows: Literal["variant", "task"] = Field(
        "variant", description="What stands on the left of the paper's table."
    )
    variant: list[Variant] = Field(min_length=1, description="The first one is compared against.")
    published: dict[str, dict[str, dict[str, float]]] = Field(
        {}, description="The paper's figures: task, variant, budget (or 'cnn') = score from 0 to 1."
    )
    small: dict[str, Any] = Field(
        {}, description="Settings of --preset small, also study.tasks and study.seeds."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)

    @field_validator("tasks", "seeds")
    @classmethod
    def _once(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) != len(value):
            raise ValueError("must name each once")
        if any(isinstance(v, int) and not 0 <= v < 2**31 for v in value):
            raise ValueError("must be whole numbers from 0 up")
        return value

    @model_validator(mode="after")
    def _whole(self) -> StudySettings:
        names = [v.name for v in self.variant]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"variant names must differ; given more than once: {', '.join(twice)}")
        for variant in self.variant:
            if variant.structure_of is not None and variant.structure_of not in self.tasks:
                raise ValueError(
                    f"variant {variant.name}: structure_of = {variant.structure_of!r} is no task of the "
                    f"study; there are: {', '.join(self.tasks) or 'none, for study.tasks is empty'}"
                )
        if self.variant[0].structure_of is not None:
            raise ValueError("the first variant is the one that searches, so it has no structure_of")
        return self


class StudyFile(Section):
    """The sections of a study that are not a job's."""

    study: StudySettings


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        variant, task, seed: its place in the grid.
        job: what is run; of a cell with `structure_of`, but for the structure.
        structure_of: the task whose searched structure it takes, or None.
        fresh: whether it takes over no more than the teacher.
    """

    variant: str
    task: str
    seed: int
    job: Job
    structure_of: str | None = None
    fresh: bool = False

    @property
    def name(self) -> str:
        """The cell as a file name."""
        return f"{self.variant}-{slug(self.task)}-s{self.seed}"

    def with_structure(self, structure: str) -> StudyRun:
        """Return the cell with the structure (JSON) that it was waiting for."""
        data = self.job.model_dump(mode="json")
        data["adabert"]["structure"] = structure
        return replace(self, job=parse_job(data), structure_of=None)

    @property
    def artifact_keys(self) -> dict[str, str]:
        """The key of each part that it may take over from another run, or give."""
        keys = artifact_keys(self.job)
        return {"teacher": keys["teacher"]} if self.fresh else keys


@dataclass(frozen=True)
class StudySpec:
    """A checked study.

    Attributes:
        settings: the [study] section.
        runs: every job, variants in order, then tasks, then seeds.
        preset: the preset that it was read with, or an empty text.
        source: what `parse_study` made it of: the file with the preset's settings and the overrides.
    """

    settings: StudySettings
    runs: tuple[StudyRun, ...]
    preset: str = ""
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`<name>-<hash8>`: the name of the study's folder; covers every cell's settings."""
        identities = [
            [r.variant, r.task, r.seed, r.structure_of, r.fresh, r.job.identity()] for r in self.runs
        ]
        text = json.dumps(identities, separators=(",", ":"))
        return f"{self.settings.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def is_study_file(path: str | Path) -> bool:
    """Return whether a job file holds a study."""
    return "study" in read_toml(path)


def load_study_file(path: str | Path, overrides: list[str] | None = None, preset: str = "") -> StudySpec:
    """Read a study: the file, then the preset's settings, then `a.b=c` overrides.

    Raises:
        UserError: as `load_job`; a variant's settings do not make a job; the preset is unknown.
    """
    data = current_names(read_toml(path))
    _check_published(data)  # as the file has it: a preset or --set may leave tasks out
    if preset:
        given = data.get("study")
        chosen = given.get(preset) if isinstance(given, dict) and preset in PRESETS else None
        if not isinstance(chosen, dict):
            raise UserError(
                f"--preset {preset!r} was given; {path} has no [study.{preset}], allowed: "
                f"{', '.join(PRESETS)} where the study has that table"
            )
        for key, value in flatten_settings(chosen, split_tables=False).items():
            put(data, key, value, f"study.{preset}, {key}")
    apply_overrides(data, overrides or [])
    return parse_study(data, preset)


def _check_published(data: dict[str, Any]) -> None:
    settings = parse(StudyFile, {"study": data.get("study", {})}).study
    unknown = sorted(set(settings.published) - set(settings.tasks))
    if settings.tasks and unknown:
        raise UserError(
            f"study.published names the task {unknown[0]!r}; study.tasks are: {', '.join(settings.tasks)}"
        )
    names = [v.name for v in settings.variant]
    for task, figures in settings.published.items():
        strange = sorted(set(figures) - {*names, "teacher"})
        if strange:
            near = nearest_key(strange[0], {n: n for n in names})
            hint = f" Did you mean {near!r}?" if near else ""
            raise UserError(
                f"study.published of {task} names the variant {strange[0]!r}.{hint} Variants: "
                f"{', '.join(names)}, and teacher."
            )


def parse_study(data: dict[str, Any], preset: str = "") -> StudySpec:
    """Check a study given as a nested dict, and expand it; raise UserError with every fault."""
    settings = parse(StudyFile, {"study": data.get("study", {})}).study
    base = current_names({k: v for k, v in data.items() if k != "study"})
    given: list[str | None] = [*settings.tasks]
    runs = [
        _study_run(base, settings, variant, task, seed)
        for variant in settings.variant
        for task in given or [None]
        for seed in settings.seeds
    ]
    tasks: dict[str, str] = {}
    for run in runs:
        if tasks.setdefault(run.name, run.task) != run.task:
            raise UserError(
                f"study.tasks {tasks[run.name]!r} and {run.task!r} make one file name, {run.name}; "
                "rename one, or make two studies of them"
            )
    return StudySpec(settings, tuple(runs), preset, data)


def _study_run(
    base: dict[str, Any], settings: StudySettings, variant: Variant, task: str | None, seed: int
) -> StudyRun:
    data = copy.deepcopy(base)
    where = f"study variant {variant.name!r}"
    if task is not None:
        data.setdefault("task", {})
        put(data, "task.name", task, "study.tasks")
    changes = flatten_settings(variant.set, split_tables=False)
    reject_both_names(changes)
    for key, value in changes.items():
        if key in ("run.seed", "run.name"):
            raise UserError(f"{where}: {key} is the study's to set; use study.seeds and study.name")
        put(data, key, copy.deepcopy(value), where)
    waits = variant.structure_of is not None
    if waits:  # any structure stands in until the search has found one
        put(data, "adabert.structure", "random:0", where)
    put(data, "run.seed", seed, where)
    section = data.get("task")
    named = section.get("name") or section.get("train") if isinstance(section, dict) else None
    label = Path(str(named)).name if isinstance(section, dict) and section.get("train") else str(named)
    put(data, "run.name", f"{settings.name}-{variant.name}-{slug(label)}-s{seed}"[:64], where)
    try:
        job = parse_job(data)
    except UserError as error:
        raise UserError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None
    if waits and job.run.methods != ["adabert"]:
        raise UserError(f'{where}: structure_of needs run.methods = ["adabert"]')
    return StudyRun(variant.name, label, seed, job, variant.structure_of, variant.fresh)


def slug(text: str) -> str:
    """Return a text as part of a file name: "glue/mrpc" as "glue-mrpc"."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(text).stem if "." in text else text).strip("-")


def artifact_keys(job: Job) -> dict[str, str]:
    """Return the key of each artifact that runs may share: teacher, supernet, distillation_data.

    Two runs have the same key when every setting that the part depends on is equal. Where a run
    computes (workers, CPUs, GPUs) is left out; the precision it computes in is a setting.
    """
    data = original_names(job.model_dump(mode="json"))
    for section, keys in NON_IDENTITY_KEYS.items():
        for key in keys:
            data[section].pop(key)
    shared = {
        "seed": data["run"]["seed"],
        "precision": data["train"]["precision"],
        **{section: data[section] for section in ("task", "model", "teacher")},
    }
    settings = {"teacher": shared}
    if "yoco" in job.run.methods:
        more = {"length": data["search"]["flops_length"], "space": data["space"], "train": data["train"]}
        settings["supernet"] = {**shared, **more}
    if "adabert" in job.run.methods:
        settings["distillation_data"] = {**shared, "augment": data["augment"]}

    def digest(part: dict[str, Any]) -> str:
        return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]

    return {name: digest(part) for name, part in settings.items()}

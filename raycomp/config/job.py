"""The schema of a job file. Each setting is a field with its default, its limits and its description.

docs/job-file.md is generated from the fields. Methods bring a section of their own (see
`raycomp.methods.registry`); `job_schema` adds the sections of the methods that a job names.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import Field, create_model, model_validator

from raycomp.config.augment import AugmentSettings
from raycomp.config.budget import BudgetSettings
from raycomp.config.elastic import SpaceSettings, TrainSettings
from raycomp.config.embeddings import EmbeddingsSettings
from raycomp.config.general import ExportSettings, ModelSettings, RunSettings, TeacherSettings
from raycomp.config.identity import hash_job
from raycomp.config.search import FinetuneSettings, HealSettings, SearchSettings
from raycomp.config.section import MethodSettings, Section, find_duplicates
from raycomp.config.task import TaskSettings
from raycomp.methods.registry import load_settings, method_names

Settings = TypeVar("Settings", bound=MethodSettings)


class Job(Section):
    """The settings of one run. `raycomp.config.loader.load_job` reads them from a file."""

    run: RunSettings = RunSettings()
    task: TaskSettings
    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    space: SpaceSettings = SpaceSettings()
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    train: TrainSettings = TrainSettings()
    search: SearchSettings = SearchSettings()
    heal: HealSettings = HealSettings()
    augment: AugmentSettings = AugmentSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    budget: list[BudgetSettings] = Field([], description="Deployment targets.")
    export: ExportSettings = ExportSettings()

    @model_validator(mode="after")
    def _budgets(self) -> Job:
        for name in self.run.methods:
            if load_settings(name).needs_budget and not self.budget:
                raise ValueError(f"Missing section 'budget': method {name} needs at least one [[budget]]")
        if self.finetune.epochs and "yoco" not in self.run.methods:
            raise ValueError(
                f"finetune.epochs = {self.finetune.epochs:g} fine-tunes sub-networks, and only method "
                "yoco has sub-networks. Add it to run.methods, or leave the setting out"
            )
        if self.finetune.epochs and self.embeddings.is_searched:
            raise ValueError(
                f"has finetune.epochs = {self.finetune.epochs:g} and choices of the word table, which "
                "fine-tuned sub-networks lack. Leave section [finetune] or [embeddings] out"
            )
        duplicates = find_duplicates(budget.name for budget in self.budget)
        if duplicates:
            raise ValueError(f"Several budgets have the same name: {', '.join(duplicates)}. Rename them")
        return self

    def settings(self, schema: type[Settings]) -> Settings:
        """Return a method's section, or its defaults if the job file does not have the section."""
        section = getattr(self, schema.method, None)
        return section if isinstance(section, schema) else schema()

    def identity(self) -> str:
        """Return 8 hex digits of the hash of all settings that can change a result."""
        return hash_job(self)

    @property
    def run_id(self) -> str:
        """Name of the run directory, `<name>-<identity>`."""
        return f"{self.run.name}-{self.identity()}"


def job_schema(data: Any) -> type[Job]:
    """Return the schema of one job: `Job` with a section for each method that the job names.

    Args:
        data: The job as a nested dict, unchecked. A job names a method in `run.methods` or by a section
            with the method's name. Modules of other methods are not imported.
    """
    sections = set(data) if isinstance(data, dict) else set()
    run = data.get("run") if isinstance(data, dict) else None
    methods = run.get("methods") if isinstance(run, dict) else None
    named = {name for name in methods if isinstance(name, str)} if isinstance(methods, list) else set()
    return schema_of(tuple(name for name in method_names() if name in sections | named))


@functools.cache
def schema_of(names: tuple[str, ...]) -> type[Job]:
    """Return `Job` with the sections of some methods. A method without settings adds none."""
    schemas = {name: load_settings(name) for name in names}
    fields: dict[str, Any] = {
        name: (schema, schema()) for name, schema in schemas.items() if schema.model_fields
    }
    return create_model("Job", __base__=Job, **fields) if fields else Job

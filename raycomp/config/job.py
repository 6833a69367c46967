"""The schema of one job file, and the identity of the run that it asks for.

Every key that a job may hold is a field here, with its unit and default; docs/job-file.md is
generated from this module and the two that it takes sections from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from typing import Any, Literal, TypeVar

from pydantic import (
    Field,
    create_model,
    field_validator,
    model_validator,
)

from raycomp.config.augment import AugmentSettings
from raycomp.config.content_names import drop_directory
from raycomp.config.elastic import (
    BudgetSettings,
    FinetuneSettings,
    SearchSettings,
    SpaceSettings,
    TrainSettings,
)
from raycomp.config.renames import original_names
from raycomp.config.section import MethodSettings, Section, plain_name
from raycomp.methods.registry import load_settings, method_names

Settings = TypeVar("Settings", bound=MethodSettings)


class RunSettings(Section):
    """What the run is called and which methods it holds."""

    name: str = Field("run", description="Name of the run; its folder is NAME-HASH.")
    methods: list[str] = Field(
        ["yoco"], description="Compression methods; they share one teacher and one set of tables."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice.")
    live: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        ["tensorboard"],
        description="Where figures go while the run goes: RUN/tensorboard, MLflow, Weights & Biases.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)

    @field_validator("methods")
    @classmethod
    def _methods(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in method_names()]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; allowed are {', '.join(method_names())}")
        if not value or len(set(value)) != len(value):
            raise ValueError('must name each method once, such as ["yoco", "adabert"]')
        return value


class TaskSettings(Section):
    """The labelled text: a GLUE task, a Hub dataset, the demo, or own files."""

    name: str | None = Field(
        None,
        description='"glue/sst2" (any of the nine), "demo/polarity" (film sentences), "demo/reviews" '
        '(long film reviews), or a Hub dataset, "owner/dataset" or "owner/dataset:config", with text and '
        "label given and splits train and validation.",
    )
    folder: str | None = Field(
        None, description="Local folder with the files of a GLUE task, or of all (Parquet or TSV)."
    )
    train: str | None = Field(None, description="Own training file: .csv, .tsv, .jsonl, .parquet.")
    validation: str | None = Field(
        None,
        description="Own validation file; carved from train (10%) when absent. Give it where the model "
        "is fine-tuned already: it has seen train, so that its score on a part of it is too high.",
    )
    text: list[str] = Field([], description="One or two text columns.", max_length=2)
    label: str | None = Field(None, description="Label column.")
    labels: list[str] | None = Field(
        None,
        description="Class names in order; when absent, the labels of train, sorted. A fine-tuned "
        "model's outputs are matched with them by its id2label; where those names are others, the order "
        "of this list is the order of its outputs.",
    )
    kind: Literal["auto", "classification", "regression"] = Field(
        "auto", description="auto: what the task says, else classification."
    )
    metric: str | None = Field(
        None,
        description="Metric of every choice: accuracy, f1 (macro beyond two classes), accuracy_f1, "
        "matthews; of regression pearson, spearman, pearson_spearman. Absent: the GLUE task's own, else "
        "accuracy or pearson_spearman.",
    )
    selection: float | int = Field(
        0.1, description="Rows carved from train for every choice: share (< 1) or count."
    )
    limit: int | None = Field(None, ge=1, description="Train on at most so many different texts.")
    max_length: int = Field(128, ge=4, le=4096, description="Tokens; longer texts are cut.")

    @field_validator("selection")
    @classmethod
    def _selection(cls, value: float) -> float:
        if not math.isfinite(value) or value <= 0 or (value >= 1 and value != int(value)):
            raise ValueError("must be a share between 0 and 1, or a whole number of rows")
        return value

    @model_validator(mode="after")
    def _source(self) -> TaskSettings:
        if (self.name is None) == (self.train is None):
            raise ValueError('needs either name (such as "glue/sst2") or train (a file), not both')
        if self.train is not None and (not self.text or self.label is None):
            raise ValueError("own files need text (one or two columns) and label (a column)")
        return self


class ModelSettings(Section):
    """The encoder that is compressed."""

    name: str = Field("demo/minilm-l6", description="Hub name, local folder, or the demo encoder.")
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub.")
    trust_remote_code: bool = Field(
        False, description="Let the model's repository run its own code. Off unless asked."
    )


class TeacherSettings(Section):
    """Fine-tuning of the teacher; a fine-tuned classifier is used as it is (mode auto)."""

    mode: Literal["auto", "train", "as-is"] = Field(
        "auto", description="auto: train only when the checkpoint has no fitting classifier."
    )
    epochs: float = Field(3.0, gt=0, le=1000, description="Passes over the training split.")
    learning_rate: float = Field(5e-5, gt=0, lt=1, description="Peak; linear decay to 0.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps.")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's decoupled decay.")
    batch_size: int = Field(32, ge=1, description="Sentences a step, over all workers.")
    dropout: float | None = Field(None, ge=0, lt=1, description="The model's own when absent.")


class ExportSettings(Section):
    """What is written for each deployed model."""

    enabled: bool = Field(
        True,
        description="Keep exports/METHOD-BUDGET of each budget. false: each is still written, loaded "
        "back and checked, then removed; `raycomp export` writes it again.",
    )


NON_IDENTITY_KEYS = {
    "train": ("cpus", "gpus", "checkpoint_seconds", "barrier_seconds", "workers", "min_workers"),
    "search": ("evaluators", "gpus", "max_tokens"),
}
"""Of [train] and [search]: where and how fast a job runs, not what comes out."""


class Job(Section):
    """A whole job file."""

    run: RunSettings = RunSettings()
    task: TaskSettings
    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    space: SpaceSettings = SpaceSettings()
    train: TrainSettings = TrainSettings()
    search: SearchSettings = SearchSettings()
    augment: AugmentSettings = AugmentSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    budget: list[BudgetSettings] = Field([], description="At least one where methods has yoco.")
    export: ExportSettings = ExportSettings()

    @model_validator(mode="after")
    def _budgets(self) -> Job:
        for name in self.run.methods:
            if load_settings(name).needs_budget and not self.budget:
                raise ValueError(f"missing section 'budget': {name} needs at least one [[budget]]")
        if self.finetune.epochs and "yoco" not in self.run.methods:
            raise ValueError("finetune.epochs was given, but only yoco has sub-networks to fine-tune")
        names = [b.name for b in self.budget]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"budget names must differ; given more than once: {', '.join(twice)}")
        return self

    def settings(self, schema: type[Settings]) -> Settings:
        """Return a method's section, its defaults where the job file leaves the section out."""
        found = getattr(self, schema.method, None)
        return found if isinstance(found, schema) else schema()

    def identity(self) -> str:
        """First 8 hex digits of the hash of everything that can change a result."""
        data = self.model_dump(mode="json")
        data["run"].pop("live")
        data["model"]["name"] = drop_directory(data["model"]["name"])
        for split in ("train", "validation"):
            data["task"][split] = drop_directory(data["task"][split])
        for section, keys in NON_IDENTITY_KEYS.items():
            for key in keys:
                data[section].pop(key)
        asked = [load_settings(name) for name in self.run.methods]
        if not any("augment" in schema.shared_sections for schema in asked):
            del data["augment"]
        for name in set(data) & set(method_names()) - set(self.run.methods):
            del data[name]
        for schema in asked:
            for key, value in schema.identity_defaults.items():
                if data[schema.method][key] == value:
                    del data[schema.method][key]
        if not self.finetune.epochs:  # what is off leaves a run its name
            del data["finetune"]
        text = json.dumps(original_names(data), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def run_id(self) -> str:
        """`<name>-<hash8>`: the name of the run's folder."""
        return f"{self.run.name}-{self.identity()}"


def job_schema(data: Any) -> type[Job]:
    """Return the schema of one job: `Job` with a section for each method that the job names.

    Args:
        data: The job as a nested dict, unchecked. A method counts as named where `run.methods` lists it
            or a section bears its name; no other method's module is imported.
    """
    sections = set(data) if isinstance(data, dict) else set()
    run = data.get("run") if isinstance(data, dict) else None
    methods = run.get("methods") if isinstance(run, dict) else None
    asked = {name for name in methods if isinstance(name, str)} if isinstance(methods, list) else set()
    return schema_of(tuple(name for name in method_names() if name in sections | asked))


@functools.cache
def schema_of(names: tuple[str, ...]) -> type[Job]:
    """Return `Job` with the sections of some methods; a method without settings has no section."""
    schemas = {name: load_settings(name) for name in names}
    fields: dict[str, Any] = {
        name: (schema, schema()) for name, schema in schemas.items() if schema.model_fields
    }
    return create_model("Job", __base__=Job, **fields) if fields else Job

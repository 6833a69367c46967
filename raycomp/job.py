"""The schema of one job file, and the identity of the run that it asks for.

Every key that a job may hold is a field here, with its unit and default; docs/job-file.md is
generated from this module.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from raycomp.job_adabert import AdabertSettings, AugmentSettings
from raycomp.jobsection import Section, parse_quantity, plain_name, plain_seeds

BUDGET_KINDS = ("params", "encoder_params", "flops")


class RunSettings(Section):
    """What the run is called and which methods it holds."""

    name: str = Field("run", description="Name of the run; its folder is NAME-HASH.")
    methods: list[Literal["yoco", "adabert"]] = Field(
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


class SpaceSettings(Section):
    """The choices of each elastic dimension; the paper's proportions when absent."""

    depth: list[int] | None = Field(None, description="Layers kept. Default: 1/2, 2/3, 5/6, 1.")
    heads: list[int] | None = Field(None, description="Heads a layer. Default: 1/3, 2/3, 1.")
    ffn: list[int] | None = Field(None, description="FFN neurons a layer. Default: 1/6, 1/4, 1/3, 1.")
    joint: bool = Field(
        False, description="One joint heads x FFN variable a layer (the released code's form)."
    )
    reorder: bool = Field(
        True, description="Sort heads and neurons by importance first. Off is the paper's form."
    )


class TrainSettings(Section):
    """Training of the super-network under EE-SNG, on Ray Train."""

    init: Literal["teacher", "pretrained"] = Field(
        "teacher", description="Weights at the start; pretrained is the paper's form."
    )
    epochs: float | list[float] = Field(
        1.0, description="Passes per phase: one number, or one per phase (largest first)."
    )
    steps: int | list[int] | None = Field(
        None, description="Steps per phase in place of epochs: one number, or one per phase."
    )
    batch_size: int = Field(32, ge=1, description="Sentences a step, over all workers.")
    learning_rate: float = Field(1e-4, gt=0, lt=1, description="Peak; see schedule.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the schedule.")
    schedule: Literal["phase", "run"] = Field(
        "run",
        description="Linear decay to 0 over the whole run, or in every phase with a fresh "
        "optimizer (phase, the paper's form).",
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="AdamW's decoupled decay.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    dropout: float = Field(0.0, ge=0, lt=1, description="0.1 is the paper's.")
    distill: Literal["none", "logits", "hidden"] = Field(
        "hidden",
        description="none: labels alone (the paper). logits: the teacher's predictions. "
        "hidden: predictions and hidden states.",
    )
    freeze_embeddings: bool = Field(
        False, description="Keep the word embeddings as they are: a tenth less time a step."
    )
    samples: int = Field(2, ge=2, le=64, description="Architectures a step (lambda).")
    update: Literal["raw", "sng", "asng"] = Field("asng", description="Update rule of theta.")
    mode: Literal["eesng", "exploit", "explore"] = Field(
        "eesng", description="Controller (Eq. 6), or one of its two halves alone."
    )
    interval: int = Field(20, ge=1, description="Steps between updates of the controller (I).")
    explored: Literal["weighted", "skip", "plain"] = Field(
        "skip", description="What exploration samples do to theta."
    )
    pairs: Literal["free", "matched"] = Field(
        "matched", description="free: the paper's. matched: compare architectures of equal cost."
    )
    workers: int = Field(1, ge=1, le=4096, description="Data-parallel workers of Ray Train.")
    cpus: float = Field(0, ge=0, description="CPUs a worker; 0 shares out what the cluster has.")
    gpus: float = Field(
        0, ge=0, description="GPUs a worker; 0 trains on processors, also where there are GPUs."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="auto: bf16 where it is faster (timed once a run on a processor), else fp32.",
    )
    checkpoint_seconds: float = Field(30.0, gt=0, le=86_400, description="At most so much work is lost.")
    barrier_seconds: float = Field(
        300.0, ge=1, le=86_400, description="Longest wait for a missing worker."
    )

    @field_validator("epochs", "steps")
    @classmethod
    def _lengths(cls, value: Any, info: ValidationInfo) -> Any:
        most = {"epochs": 10_000, "steps": 1_000_000_000}[str(info.field_name)]
        if not all(0 <= v <= most for v in (value if isinstance(value, list) else [value or 0])):
            raise ValueError(f"each must be from 0 to {most:,}")
        return value


class SearchSettings(Section):
    """The deployment search, on Ray Tune."""

    searchers: list[Literal["sng", "random", "evolution"]] = Field(
        ["sng"], min_length=1, description="One trial per (budget, searcher, seed)."
    )
    seeds: list[int] = Field([0], min_length=1, description="A trial each, on top of run.seed.")
    evaluations: int = Field(64, ge=4, description="Architectures that one trial may ask for.")
    opening: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of them that is common to all budgets of the job. Absent: so large that "
        "all budgets together need at most 1.3 times as many as one.",
    )
    batch: int = Field(8, ge=2, description="Architectures asked for at a time (lambda).")
    alpha: float = Field(2.0, gt=0, le=100, description="Exponent of Eq. 7.")
    reward: Literal["corrected", "printed"] = Field(
        "corrected", description="Eq. 7 as it must be, or as the paper prints it."
    )
    evaluators: int = Field(0, ge=0, description="Evaluator actors; 0: one per free CPU or GPU.")
    gpus: float = Field(
        0,
        ge=0,
        description="GPUs an evaluator (fractions allowed); 0: one where the cluster has any, else none.",
    )
    flops_length: int | None = Field(
        None, ge=1, description="Tokens a sequence when FLOPs are counted; task.max_length else."
    )
    max_tokens: int | None = Field(
        None,
        ge=16,
        description="Padded tokens a batch of evaluation. Absent: 2,048 on a processor, 16,384 on a GPU.",
    )

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        return plain_seeds(value)


class FinetuneSettings(Section):
    """Fine-tuning of sub-networks on their own, to compare with: scored, never exported."""

    epochs: float = Field(
        0.0, ge=0, le=1000, description="Passes over the training split; 0 is off (the paper deploys so)."
    )
    learning_rate: float = Field(2e-5, gt=0, lt=1, description="Peak; linear decay to 0.")
    batch_size: int = Field(32, ge=1, description="Sentences a step, over all workers.")
    start: Literal["supernet", "teacher"] = Field(
        "supernet",
        description="Weights at the start: inherited from the trained super-network, or the slice of "
        "the network that it began with, as if there were no super-network.",
    )
    networks: int = Field(
        0,
        ge=0,
        description="Tune so many sub-networks drawn from the space, to rank them; 0: the deployed ones.",
    )


class BudgetSettings(Section):
    """One deployment target: a name and exactly one limit."""

    name: str = Field(description="Name of the budget; exports go to exports/METHOD-NAME.")
    params: float | int | str | None = Field(
        None, description='Whole model: 40e6, "12M", "0.5x", or "0.5x encoder".'
    )
    encoder_params: float | int | str | None = Field(
        None, description="Transformer layers alone, without embeddings, pooler and classifier."
    )
    flops: float | int | str | None = Field(
        None,
        description="FLOPs of one sequence of search.flops_length tokens (absent: task.max_length), two "
        'a multiply-add of the matrix products: 2e9, "2G", "0.5x".',
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)

    @model_validator(mode="after")
    def _one(self) -> BudgetSettings:
        given = [k for k in BUDGET_KINDS if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(BUDGET_KINDS)}; {len(given)} given")
        self.resolve(1.0)
        if given == ["flops"] and str(self.flops).endswith("encoder"):
            raise ValueError(f'flops = {self.flops!r}: FLOPs are of the whole model; write "0.5x"')
        return self

    @property
    def kind(self) -> str:
        """`params`, `encoder_params` or `flops`; "0.5x encoder" under params is encoder_params."""
        kind = next(k for k in BUDGET_KINDS if getattr(self, k) is not None)
        text = getattr(self, kind)
        if kind == "params" and isinstance(text, str) and text.split()[-1:] == ["encoder"]:
            return "encoder_params"
        return kind

    def resolve(self, full: float) -> float:
        """Return the limit in the kind's own unit; `full` is the full model's figure."""
        raw = next(getattr(self, k) for k in BUDGET_KINDS if getattr(self, k) is not None)
        return parse_quantity(raw, full)


class ExportSettings(Section):
    """What is written for each deployed model."""

    enabled: bool = Field(
        True,
        description="Keep exports/METHOD-BUDGET of each budget. false: each is still written, loaded "
        "back and checked, then removed; `raycomp export` writes it again.",
    )


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
    adabert: AdabertSettings = AdabertSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    budget: list[BudgetSettings] = Field([], description="At least one where methods has yoco.")
    export: ExportSettings = ExportSettings()

    @model_validator(mode="after")
    def _budgets(self) -> Job:
        if not self.budget and "yoco" in self.run.methods:
            raise ValueError("missing section 'budget': yoco needs at least one [[budget]]")
        if self.finetune.epochs and "yoco" not in self.run.methods:
            raise ValueError("finetune.epochs was given, but only yoco has sub-networks to fine-tune")
        names = [b.name for b in self.budget]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"budget names must differ; given more than once: {', '.join(twice)}")
        return self

    def identity(self) -> str:
        """First 8 hex digits of the hash of everything that can change a result."""
        data = self.model_dump(mode="json")
        data["run"].pop("live")
        for key in ("cpus", "gpus", "checkpoint_seconds", "barrier_seconds", "workers"):
            data["train"].pop(key)
        for key in ("evaluators", "gpus", "max_tokens"):
            data["search"].pop(key)
        if "adabert" not in self.run.methods:
            del data["augment"], data["adabert"]
        elif self.adabert.structure is None:
            del data["adabert"]["structure"]
        if not self.finetune.epochs:  # what is off leaves a run its name
            del data["finetune"]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def run_id(self) -> str:
        """`<name>-<hash8>`: the name of the run's folder."""
        return f"{self.run.name}-{self.identity()}"

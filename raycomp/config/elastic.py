"""Sections of a job file that are YOCO-BERT's: space, training, search, fine-tuning, budgets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raycomp.config.section import Section, parse_quantity, plain_name, plain_seeds

BUDGET_KINDS = ("params", "encoder_params", "flops")


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
    sampler_sync_steps: int = Field(
        10,
        description="Steps whose architectures are drawn together and whose losses are told together: "
        "1 (theta moves after every step, the paper), 2, 5 or 10.",
    )
    exploration_update: Literal["weighted", "skip", "plain"] = Field(
        "skip", description="What exploration samples do to theta."
    )
    pairing: Literal["free", "matched"] = Field(
        "matched", description="free: the paper's. matched: compare architectures of equal cost."
    )
    workers: int = Field(1, ge=1, le=4096, description="Data-parallel workers of Ray Train.")
    min_workers: int = Field(
        0,
        ge=0,
        le=4096,
        description="Train with as many of the workers as find room, this many at least: nodes that join "
        "are used, and those that leave are done without. Sums are then rounded by how many took part. "
        "0: all workers, always.",
    )
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

    @field_validator("sampler_sync_steps")
    @classmethod
    def _sampler_sync_steps(cls, value: int) -> int:
        if value not in (1, 2, 5, 10):  # checkpoints come at multiples of ten steps
            raise ValueError("must be 1, 2, 5 or 10")
        return value

    @model_validator(mode="after")
    def _elastic(self) -> TrainSettings:
        if self.min_workers > self.workers:
            raise ValueError(
                f"min_workers = {self.min_workers} was given; it must be at most workers = {self.workers}"
            )
        return self

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
    shared_fraction: float | None = Field(
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

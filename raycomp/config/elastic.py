"""The sections [space] and [train] of a job file: the super-network and its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from raycomp.config.references import check_choice
from raycomp.config.section import Section, choices

DISTILLATIONS = ("none", "logits", "hidden", "teacher")
"""Objectives of raycomp's own, the values of train.distill."""

AUTO_RATE = {
    "auto": "3e-4 times 384 over the width of the hidden states, and at most 3e-4. It is measured on "
    "MiniLM-L6"
}
"""Choice of a learning rate of a training that starts from the teacher's weights."""

SYNC_STEPS = (1, 2, 5, 10)
"""Allowed values of train.sampler_sync_steps. Checkpoints come at multiples of ten steps."""


def _check_rate(rate: float | Literal["auto"]) -> float | Literal["auto"]:
    if rate != "auto" and not 0 < rate < 1:
        raise ValueError('it must be "auto", or a number above 0 and below 1')
    return rate


LearningRate = Annotated[float | Literal["auto"], AfterValidator(_check_rate)]
"""Setting for a learning rate that may be "auto"."""


class SpaceSettings(Section):
    """The search space: the values that each dimension of an architecture can have.

    A list must contain the full size of the model. Without a list, the paper's proportions of the full
    size are used.
    """

    depth: list[int] | None = Field(
        None,
        description="Numbers of layers. Not set: 1/2, 2/3, 5/6 and all of the model's layers; with a "
        "budget for a device also one layer, 1/6 and 1/3.",
    )
    heads: list[int] | None = Field(
        None,
        description="Numbers of attention heads of a layer. Not set: 1/3, 2/3 and all of the model's "
        "heads; with a budget for a device rounded to its widths, multiples of 16 (INT8: 32).",
    )
    ffn: list[int] | None = Field(
        None,
        description="Numbers of FFN neurons of a layer. Not set: 1/6, 1/4, 1/3 and all of the model's "
        "neurons; with a budget for a device rounded like `heads`.",
    )
    joint: bool = Field(
        False,
        description="Whether heads and FFN width of a layer are one variable of the architecture "
        "distribution (as in the released code) instead of two.",
    )
    reorder: bool = Field(
        True,
        description="Whether heads and neurons are sorted by importance before the training. Smaller "
        "sub-networks then keep the most important ones. The paper's form is false.",
    )
    plain: bool = Field(
        False,
        description="Whether only networks are searched that are ordinary models of transformers: all "
        "heads, and one FFN width for all layers. Exports then load without code "
        "(`BertForSequenceClassification`). It applies to `yoco`, `uniform`, `hat`, `ofa` and "
        "`sandwich`; `heads` and `joint` are then left out.",
    )

    @model_validator(mode="after")
    def _plain(self) -> SpaceSettings:
        if not self.plain:
            return self
        if self.heads is not None and len(self.heads) > 1:
            raise ValueError(
                f"has plain = true and heads = {self.heads}. A plain network has all heads; leave heads "
                "out"
            )
        if self.joint:
            raise ValueError("has plain = true and joint = true. Leave joint out")
        if self.ffn is not None and 0 in self.ffn:
            raise ValueError("has plain = true and 0 in ffn. A plain network has an FFN in each layer")
        return self


class TrainSettings(Section):
    """Training of the super-network, on Ray Train.

    The settings from `workers` to `max_failures` apply to every training of a run.
    """

    init: Literal["teacher", "pretrained"] = Field(
        "teacher",
        description=choices(
            "Weights before the training.",
            {
                "teacher": "the weights of the fine-tuned teacher",
                "pretrained": "the weights of the pretrained model (the paper's form)",
            },
        ),
    )
    epochs: float | list[float] = Field(
        1.0,
        description="Passes over the training split in each phase: one number, or a list with one number "
        "per phase. The first phase trains the largest network.",
    )
    steps: int | list[int] | None = Field(
        None,
        description="Steps in each phase: one number, or a list with one number per phase. It replaces "
        "`epochs`.",
    )
    batch_size: int = Field(32, ge=1, description="Texts of one step, summed over all workers.")
    learning_rate: LearningRate = Field(
        "auto",
        description=choices("Largest learning rate; see `warmup` and `schedule`.", AUTO_RATE),
    )
    warmup: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Part of the schedule in which the learning rate rises from 0, from 0 to 1.",
    )
    schedule: Literal["phase", "run", "late"] = Field(
        "run",
        description=choices(
            "Part of the training over which the learning rate falls linearly to 0.",
            {
                "run": "the whole training",
                "phase": "each phase, with a new optimizer (the paper's form)",
                "late": "the last fifth of the training; the rate is constant before it",
            },
        ),
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Decoupled weight decay of AdamW.")
    clip: float = Field(
        1.0, gt=0, description="Largest norm of the gradient. Longer gradients are scaled."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability. The paper's form is 0.1.")
    distill: str = Field(
        "hidden",
        description=choices(
            "What the sub-networks learn from.",
            {
                "none": "the labels only (the paper's form)",
                "logits": "the labels and the teacher's predictions",
                "hidden": "the labels, the teacher's predictions and its hidden states",
                "teacher": "the teacher's predictions at temperature 2 and its hidden states, no labels",
                "module:name": "the labels and your hint, or your objective. All nodes must be able to "
                "import the module",
            },
        ),
    )
    freeze_embeddings: bool = Field(
        False,
        description="Whether the word embeddings keep their first values. A step then takes about 10% "
        "less time.",
    )
    samples: int = Field(
        2, ge=2, le=64, description="Architectures that one step trains (lambda in the paper)."
    )
    update: Literal["raw", "sng", "asng", "regression"] = Field(
        "asng",
        description=choices(
            "Update rule of the architecture distribution.",
            {
                "raw": "natural gradient of the losses with a constant step (Eq. 5, the paper's form)",
                "sng": "natural gradient of the ranks of the losses with a constant step",
                "asng": "natural gradient of the ranks with an adaptive step",
                "regression": "effects of the choices on the loss at equal cost, from a linear model "
                "of the losses of all steps, exploration steps too",
            },
        ),
    )
    mode: Literal["eesng", "exploit", "explore"] = Field(
        "eesng",
        description=choices(
            "How the architectures of a step are drawn.",
            {
                "eesng": "the controller decides in each step between the two other modes (Eq. 6)",
                "exploit": "always from the architecture distribution",
                "explore": "always uniformly; the architecture distribution does not change",
            },
        ),
    )
    interval: int = Field(
        20, ge=1, description="Steps between two updates of the controller (I in the paper)."
    )
    sampler_sync_steps: int = Field(
        10,
        description="Steps between two updates of the architecture distribution: 1 (the paper's form), "
        "2, 5 or 10. The architectures of these steps are drawn together, so the workers wait less "
        "often for the sampler.",
    )
    exploration_update: Literal["weighted", "skip", "plain"] = Field(
        "skip",
        description=choices(
            "How architectures that were drawn uniformly update the architecture distribution.",
            {
                "skip": "not at all",
                "weighted": "with the weight min(1, P_theta / P_uniform) of their probabilities",
                "plain": "as if they came from the architecture distribution (the paper's form)",
            },
        ),
    )
    pairing: Literal["free", "matched"] = Field(
        "matched",
        description=choices(
            "How the architectures of one step depend on each other.",
            {
                "free": "they are drawn independently (the paper's form)",
                "matched": "the others have nearly the same cost as the first; their losses then "
                "compare structure and not size",
            },
        ),
    )
    budget_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of the steps whose architectures cost as much as a budget allows, up to 15% "
        "less. The others are drawn without regard to the budgets. These steps do not update the "
        "architecture distribution.",
    )
    cost_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of the steps whose architectures have a size that is drawn uniformly from the "
        "smallest to the largest one. Without it, few architectures are small. These steps do not "
        "update the architecture distribution.",
    )
    workers: int = Field(
        1, ge=1, le=4096, description="Data-parallel workers. Each trains on a part of every batch."
    )
    min_workers: int = Field(
        0,
        ge=0,
        le=4096,
        description="Smallest number of workers of an elastic training: it continues with fewer "
        "workers if nodes leave, and uses nodes that join, up to `workers`. Results then depend on the "
        "number of workers in the last digits. 0: always exactly `workers`.",
    )
    cpus: float = Field(
        0, ge=0, description="CPUs of each worker. 0: an equal share of the cluster's CPUs."
    )
    gpus: float = Field(
        0,
        ge=0,
        description="GPUs of each worker. 0: training uses CPUs, even if the cluster has GPUs.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description=choices(
            "Precision of the forward and backward passes.",
            {
                "auto": "bf16 if the device is faster with it (on a CPU, a run measures this once)",
                "bf16": "bf16, with weights and optimizer in fp32",
                "fp32": "fp32",
            },
        ),
    )
    checkpoint_seconds: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="Seconds between two checkpoints. An interruption loses at most this much work.",
    )
    barrier_seconds: float = Field(
        300.0,
        ge=1,
        le=86_400,
        description="Seconds to wait for a worker that does not respond before it is replaced.",
    )
    max_failures: int = Field(
        3,
        ge=0,
        le=1_000_000,
        description="Failures of a training without a new checkpoint between them. After one more, the "
        "run ends with a message.",
    )

    @field_validator("distill")
    @classmethod
    def _distill(cls, value: str) -> str:
        return check_choice(value, DISTILLATIONS, "a hint")

    @field_validator("sampler_sync_steps")
    @classmethod
    def _sampler_sync_steps(cls, value: int) -> int:
        if value not in SYNC_STEPS:
            raise ValueError("it must be 1, 2, 5 or 10")
        return value

    @field_validator("epochs", "steps")
    @classmethod
    def _lengths(cls, value: Any, info: ValidationInfo) -> Any:
        largest = {"epochs": 10_000, "steps": 1_000_000_000}[str(info.field_name)]
        values = value if isinstance(value, list) else [value or 0]
        if not all(0 <= number <= largest for number in values):
            raise ValueError(f"each number must be from 0 to {largest:,}")
        return value

    @model_validator(mode="after")
    def _shares(self) -> TrainSettings:
        if self.budget_share + self.cost_share > 1:
            raise ValueError(
                f"has budget_share = {self.budget_share:g} and cost_share = {self.cost_share:g}. Their "
                "sum must be at most 1"
            )
        return self

    @model_validator(mode="after")
    def _elastic(self) -> TrainSettings:
        if self.min_workers > self.workers:
            raise ValueError(
                f"has min_workers = {self.min_workers} and workers = {self.workers}. min_workers must be "
                f"at most workers"
            )
        return self

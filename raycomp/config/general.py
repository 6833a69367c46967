"""Sections that every method reads: run, model, teacher, export."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from raycomp.config.section import Section, choices, plain_name
from raycomp.methods.registry import method_names


class RunSettings(Section):
    """The name of the run, its methods and its seed."""

    name: str = Field("run", description="Name of the run. The run directory is NAME-IDENTITY.")
    methods: list[str] = Field(
        ["yoco"],
        description="Names of the compression methods. All methods of a run share one teacher and write "
        "the same tables.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random choices of the run.")
    tracking: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        ["tensorboard"],
        description=choices(
            "Trackers that receive metrics during the run.",
            {
                "tensorboard": "event files in the directory `tensorboard` of the run directory",
                "mlflow": "the MLflow server of MLFLOW_TRACKING_URI",
                "wandb": "Weights & Biases",
            },
        ),
    )

    equal_compute: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Number of passes whose FLOPs each method may spend on training over all budgets "
        "together. One pass is the FLOPs of training the full network once over the training split. The "
        "lengths of each method are multiplied by one number to reach it. Healing and reads of the "
        "teacher count. Not set: the methods keep their lengths.",
    )
    equal_epochs: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="Passes over the training split of each network that a method trains, all its phases "
        "together. Healing is extra (`heal.steps`, `heal.rounds`). Not set: the methods keep their "
        "lengths.",
    )

    @model_validator(mode="after")
    def _equal(self) -> RunSettings:
        if self.equal_compute is not None and self.equal_epochs is not None:
            raise ValueError("has equal_compute and equal_epochs. Remove one of them")
        return self

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)

    @field_validator("methods")
    @classmethod
    def _methods(cls, value: list[str]) -> list[str]:
        names = method_names()
        unknown = [name for name in value if name not in names]
        if unknown:
            raise ValueError(f"method {unknown[0]!r} is unknown. Methods: {', '.join(names)}")
        if not value or len(set(value)) != len(value):
            raise ValueError('it must name each method once, such as ["yoco", "adabert"]')
        return value


class ModelSettings(Section):
    """The encoder that is compressed."""

    name: str = Field(
        "demo/minilm-l6",
        description='Model on the Hugging Face Hub, local directory, or "demo/minilm-l6", an encoder '
        "that "
        "comes with a small package.",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit on the Hub. Not set: the newest version."
    )
    trust_remote_code: bool = Field(
        False,
        description="Whether Python code in the model's repository can run on your machines. Set it only "
        "for repositories that you trust.",
    )


class TeacherSettings(Section):
    """Fine-tuning of the teacher. A model that is already a classifier for the task is used as it is."""

    mode: Literal["auto", "train", "as-is"] = Field(
        "auto",
        description=choices(
            "Whether the model is fine-tuned.",
            {
                "auto": "only if it lacks a classifier. A classifier that does not fit the task is "
                "refused, and so is one that is not better than chance on training rows",
                "train": "always, with a new classifier",
                "as-is": "never; it must have a classifier for this task, also one near chance",
            },
        ),
    )
    epochs: float | Literal["auto"] = Field(
        "auto",
        description=choices(
            "Passes over the training split.",
            {
                "auto": "3, or more for many classes. `raycomp plan` prints the number",
                "a number": "exactly that number, such as 3",
            },
        ),
    )
    learning_rate: float = Field(
        5e-5, gt=0, lt=1, description="Largest learning rate. It falls linearly to 0."
    )
    classifier_learning_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Largest learning rate of the new classifier. Not set: `learning_rate`; with "
        '`epochs = "auto"` and many classes up to 20 times `learning_rate`.',
    )
    warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Part of the steps in which the learning rate rises from 0, from 0 to 1.",
    )
    weight_decay: float = Field(0.01, ge=0, lt=1, description="Decoupled weight decay of AdamW.")
    batch_size: int = Field(32, ge=1, description="Texts of one step, summed over all workers.")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout probability. Not set: the model's own."
    )

    @field_validator("epochs")
    @classmethod
    def _epochs(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0 < value <= 1000:
            raise ValueError('it must be "auto", or a number above 0 and at most 1,000')
        return value


class ExportSettings(Section):
    """The exported models."""

    enabled: bool = Field(
        True,
        description="Whether exported models are kept in the directory `exports` of the run directory. "
        "If false, each model is still exported, loaded and verified, and then removed. `raycomp "
        "export` writes it again.",
    )

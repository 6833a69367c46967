"""The sections [study] and [[study.variant]] of a study file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raycomp.config.section import LARGEST_SEED, Section, choices, find_duplicates, plain_name


class Variant(Section):
    """One variant: the settings in which it differs from the rest of the file."""

    name: str = Field(description="Name of the variant.")
    set: dict[str, Any] = Field({}, description='Settings, such as { train.mode = "exploit" }.')
    structure_of: str | None = Field(
        None,
        description="Task of the study. The study runs of this variant train the structure that the "
        "first variant finds on that task, instead of a search.",
    )
    fresh: bool = Field(
        False,
        description="Whether the study runs of this variant take only the teacher from earlier runs, and "
        "train their own super-network. Set it where cost is measured.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)


class StudySettings(Section):
    """A study: a grid of runs over variants, tasks and seeds."""

    name: str = Field(description="Name of the study. The study directory is NAME-IDENTITY.")
    paper: str = Field(
        "", description="Table of the paper that the study is compared with, such as 'Table 3'."
    )
    tasks: list[str] = Field(
        [], description="Tasks, by their `task.name`. Empty: the task of the section [task]."
    )
    seeds: list[int] = Field(
        [0, 1, 2], min_length=1, description="Values of `run.seed`, one for each repetition."
    )
    rows: Literal["variant", "task"] = Field(
        "variant",
        description=choices(
            "Rows of the printed table.",
            {"variant": "a row per variant, a column per task", "task": "a row per task"},
        ),
    )
    variant: list[Variant] = Field(
        min_length=1, description="Variants. The others are compared with the first one."
    )
    published: dict[str, dict[str, dict[str, float]]] = Field(
        {},
        description="Scores of the paper, from 0 to 1: task -> variant (or teacher) -> budget (or cnn) "
        "-> score.",
    )
    small: dict[str, Any] = Field(
        {},
        description="Settings that `--preset small` changes, also of the section [study]. They make "
        "a quick study.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)

    @field_validator("tasks", "seeds")
    @classmethod
    def _without_duplicates(cls, value: list[Any]) -> list[Any]:
        if find_duplicates(value):
            raise ValueError("it must not contain duplicates")
        if any(isinstance(entry, int) and not 0 <= entry <= LARGEST_SEED for entry in value):
            raise ValueError(f"it must be whole numbers from 0 to {LARGEST_SEED:,}")
        return value

    @model_validator(mode="after")
    def _variants(self) -> StudySettings:
        duplicates = find_duplicates(variant.name for variant in self.variant)
        if duplicates:
            raise ValueError(f"has several variants named {', '.join(duplicates)}. Rename them")

        for variant in self.variant:
            if variant.structure_of is not None and variant.structure_of not in self.tasks:
                tasks = ", ".join(self.tasks) or "none (study.tasks is empty)"
                raise ValueError(
                    f"has a variant {variant.name} with structure_of = {variant.structure_of!r}, which "
                    f"is not a task of the study. Tasks: {tasks}"
                )
        if self.variant[0].structure_of is not None:
            raise ValueError(
                "has structure_of in its first variant, but the first variant is the one that searches. "
                "Remove structure_of, or put another variant first"
            )
        return self


class StudyFile(Section):
    """The sections of a study file that a job file does not have."""

    study: StudySettings

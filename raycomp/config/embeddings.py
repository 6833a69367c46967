"""The section [embeddings] of a job file: choices of the word table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raycomp.config.section import Section, choices, find_duplicates

FULL: Literal["full"] = "full"
"""The choice of the whole vocabulary, and of a word table that is one matrix."""


class EmbeddingsSettings(Section):
    """The word table as a dimension of the search space.

    It applies to `yoco`, `uniform`, `hat`, `ofa` and `sandwich`. Each list must contain "full". With more
    than one choice, the search chooses the table of each budget that counts it.
    """

    vocabulary: list[Literal["full", "task"]] = Field(
        [FULL],
        description=choices(
            "Rows of the word table.",
            {
                "full": "all tokens of the model",
                "task": "the tokens of the training text, special tokens, and pieces of one character",
            },
        ),
    )
    coverage: float = Field(
        1.0,
        ge=0.5,
        le=1,
        description='Share of the tokens of the training text that vocabulary "task" keeps, the most '
        "frequent tokens first. 1: every token that occurs.",
    )
    rank: list[int | Literal["full"]] = Field(
        [FULL],
        description=choices(
            "Ranks of the word table. A number r makes it the product of a matrix with r columns and "
            "one with r rows.",
            {"full": "the table is one matrix"},
        ),
    )

    @field_validator("vocabulary", "rank")
    @classmethod
    def _choices(cls, value: list[int | str]) -> list[int | str]:
        if FULL not in value or find_duplicates(map(str, value)):
            raise ValueError('it must name each choice once, with "full" among them')
        return value

    @field_validator("rank")
    @classmethod
    def _ranks(cls, value: list[int | str]) -> list[int | str]:
        if any(not isinstance(rank, str) and rank < 1 for rank in value):
            raise ValueError("each rank must be at least 1")
        return value

    @property
    def is_searched(self) -> bool:
        """Whether the word table has more than one choice."""
        return len(self.vocabulary) * len(self.rank) > 1

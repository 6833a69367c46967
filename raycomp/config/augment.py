"""The section [augment] of a job file: replacement of words in the training text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raycomp.config.section import Section


class AugmentSettings(Section):
    """Word replacement (TinyBERT's), for AdaBERT's training text."""

    copies: int = Field(4, ge=0, le=1000, description="New sentences a row (N); 0 is off.")
    method: Literal["auto", "mlm", "neighbours"] = Field(
        "auto",
        description="mlm: the model's masked-language head. neighbours: its word-embedding table. "
        "auto: mlm where the model has that head.",
    )
    probability: float = Field(
        0.4, gt=0, le=1, description="Of each word that is alphabetic and no stop word (p)."
    )
    candidates: int = Field(15, ge=1, le=1000, description="Words that may take a word's place.")
    consistent_pairs: bool = Field(
        True,
        description="Of two texts: a word that comes again in a row is replaced everywhere by the same "
        "word, so that what the texts share stays shared. TinyBERT's: false.",
    )

"""The section [augment] of a job file: replacement of words in the training text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raycomp.config.section import Section, choices


class AugmentSettings(Section):
    """Augmentation: new training texts for students, made by replacing words as in TinyBERT."""

    copies: int = Field(
        4, ge=0, le=1000, description="New texts for each training row (N in the paper). 0: none."
    )
    method: Literal["auto", "mlm", "neighbours"] = Field(
        "auto",
        description=choices(
            "Where the replacements come from.",
            {
                "auto": "`mlm` if the model has a masked-language head, else `neighbours`",
                "mlm": "predictions of the model's masked-language head",
                "neighbours": "nearest words in the model's table of word embeddings",
            },
        ),
    )
    probability: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Probability that a word is replaced (p in the paper), by a word of the same script. "
        "Numbers, punctuation, English stop words, and text in scripts without blanks between words "
        "(such as Chinese, Japanese and Thai) are never replaced.",
    )
    candidates: int = Field(
        15, ge=1, le=1000, description="Number of most likely replacements, of which one is drawn."
    )
    consistent_pairs: bool = Field(
        True,
        description="Whether a word that occurs several times in the two texts of a row is replaced by "
        "the same word everywhere. This keeps common words common. TinyBERT's form is false. Rows "
        "with one text are not affected.",
    )

"""Properties of model and data that every process of a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycomp.data.tokens import fingerprint
from raycomp.errors import UserError
from raycomp.storage.files import read_json

if TYPE_CHECKING:
    from raycomp.methods.context import RunContext

COUNTED_TEXTS = 2000
"""Training rows of which unknown tokens are counted."""


@dataclass(frozen=True)
class Facts:
    """Properties of model and data that every process needs. They are written once: workers load neither.

    Attributes:
        config: An `EncoderConfig` as its `to_dict` returns it.
        fine_tuned: Whether the model has a classifier for this task.
        tokenizer: Fingerprint of the tokenizer.
        sep_token_id: Token between two texts; None if the tokenizer lacks one.
        kind: "classification" or "regression".
        num_labels: Outputs of the classifier.
        pair: Whether a row has two texts.
        metrics: All metrics of the task.
        primary: The metric by which models are chosen.
        positive: Number of the class that F1 of two classes counts as positive.
        target_mean: Mean of the training targets of a regression. Runs of versions that did not
            standardise targets lack it.
        target_deviation: Deviation of these targets.
    """

    config: dict[str, Any]
    fine_tuned: bool
    tokenizer: str
    sep_token_id: int | None
    kind: str
    num_labels: int
    pair: bool
    metrics: tuple[str, ...]
    primary: str
    positive: int = 1
    target_mean: float = 0.0
    target_deviation: float = 1.0


def read_facts(path: Path) -> Facts:
    """Read the facts of a run.

    Raises:
        UserError: The file is damaged.
    """
    data = read_json(path)
    try:
        return Facts(**{**data, "metrics": tuple(data["metrics"])})
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} was not written by this version of raycomp ({error}). Use the version that "
            "began the run, or start a new one with --set run.name=NAME."
        ) from None


def make_facts(context: RunContext) -> Facts:
    """Return the facts of a new run; its context keeps the tokenizer, and the note on it.

    Raises:
        UserError: The checkpoint or its tokenizer does not fit the task.
    """
    # Imported here: only the driver makes facts, and transformers takes seconds to import.
    from raycomp.encoder.tokenizer_checks import check_words

    checkpoint = context.load()
    tokenizer = checkpoint.tokenizer
    context.__dict__["tokenizer"] = tokenizer
    context.tokenizer_note = checkpoint.tokenizer_note
    context.head_note = checkpoint.head_note
    check_words(tokenizer, context.sample_texts(COUNTED_TEXTS), context.job.model.name)
    task = context.task
    scaling = context.target_scaling
    return Facts(
        config=checkpoint.network.config.to_dict(),
        fine_tuned=checkpoint.is_fine_tuned,
        tokenizer=fingerprint(tokenizer),
        sep_token_id=tokenizer.sep_token_id,
        kind=task.kind,
        num_labels=task.num_labels,
        pair=task.train.text_b is not None,
        metrics=task.metrics,
        primary=task.primary,
        positive=task.positive,
        target_mean=scaling.mean,
        target_deviation=scaling.deviation,
    )

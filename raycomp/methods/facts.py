"""Properties of model and data that every process of a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycomp.errors import UserError
from raycomp.storage.files import read_json


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

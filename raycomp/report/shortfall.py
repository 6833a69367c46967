"""Models far below their teacher: at chance, or below the share of its score that the job asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from raycomp.config.budget import BudgetSettings
from raycomp.config.references import is_reference
from raycomp.data.metrics import REGRESSION
from raycomp.methods.registry import load_settings
from raycomp.report.bootstrap import bootstrap_replicates
from raycomp.report.formatting import format_percent, format_score, is_finite_number
from raycomp.report.predictions import Predictions

CHANCE = "chance"
LOW_RETENTION = "low retention"
DEFAULT_MIN_RETENTION = float(BudgetSettings.model_fields["min_retention"].default)

DRAWS = 500
LEVEL = 0.05
"""A model is at chance if the score of a constant answer is reached in more than this share of draws."""


def find_shortfall(
    metric: str,
    predictions: Predictions | None,
    retention: float | None,
    min_retention: float = DEFAULT_MIN_RETENTION,
) -> str | None:
    """Return CHANCE, LOW_RETENTION, or None for a model that is close enough to its teacher.

    Args:
        metric: Metric of the validation score.
        predictions: Outputs on the validation splits; None if they are not known.
        retention: Validation score over that of the teacher; None if it is not known.
        min_retention: Smallest share of the teacher's score that is not marked.
    """
    if predictions is not None and not is_reference(metric) and is_at_chance(metric, predictions):
        return CHANCE
    if retention is not None and retention < min_retention:
        return LOW_RETENTION
    return None


def is_at_chance(metric: str, predictions: Predictions) -> bool:
    """Return whether a model is not shown to be better than the best constant answer.

    The constant answer is the class with the best score, or a constant number, whose correlation is 0.
    Both are scored on the same bootstrap draws of the examples.

    Args:
        metric: A metric of raycomp's own.
        predictions: Outputs on the validation splits.
    """
    own = bootstrap_replicates(metric, [predictions], draws=DRAWS)
    constant = bootstrap_replicates(metric, [_best_constant(metric, predictions)], draws=DRAWS)
    return float(np.mean(own <= constant)) > LEVEL


def _best_constant(metric: str, predictions: Predictions) -> Predictions:
    """Return the outputs of the constant answer with the best score."""
    if metric in REGRESSION:
        return replace(predictions, logits=tuple(np.zeros_like(x) for x in predictions.logits))

    def answer(label: int) -> Predictions:
        one_hot = np.eye(predictions.logits[0].shape[1])[label]
        logits = tuple(np.tile(one_hot, (len(labels), 1)) for labels in predictions.labels)
        # F1 of two classes depends on the positive class, which the constant answer must share.
        return replace(predictions, logits=logits)

    # A class that does not occur cannot be the best answer.
    labels = np.concatenate(predictions.labels)
    outputs = predictions.logits[0].shape[1]
    candidates = [int(label) for label in np.unique(labels) if label < outputs]
    if metric == "accuracy":
        counts = np.bincount(labels.astype(int), minlength=outputs)
        candidates = [int(counts[:outputs].argmax())]
    return max(map(answer, candidates), key=lambda constant: constant.value(metric))


def describe_shortfall(row: Mapping[Any, Any], job: Mapping[str, Any]) -> str:
    """Return a sentence on a marked model: what is wrong, and what to do; empty for other models.

    Args:
        row: Row of table `deployments`.
        job: Settings of the run, as in job.json.
    """
    if row.get("warning") not in (CHANCE, LOW_RETENTION):
        return ""

    subject = f"The model of {row['method']} for {row['budget']}"
    scores = f"validation {format_score(row['validation'])}"
    if is_finite_number(row.get("teacher_validation")):
        scores += f", teacher {format_score(row['teacher_validation'])}"
    if row["warning"] == CHANCE:
        problem = f"is at chance: it is not shown to be better than a constant answer ({scores})."
    else:
        floor = format_percent(find_min_retention(job, str(row["budget"])))
        share = format_percent(row["retention"])
        problem = f"keeps {share} of the teacher's score, less than {floor} ({scores})."
    return f"{subject} {problem} {_advise(row)}"


def _advise(row: Mapping[Any, Any]) -> str:
    """Return what a user can do about a model that is far below its teacher."""
    if is_finite_number(row.get("heal_steps")) and row["heal_steps"] > 0:
        steps = f"{int(row['heal_steps']):,}"
        return f"Heal it longer than {steps} steps (heal.steps, heal.rounds), or raise the budget."
    schema = load_settings(str(row["method"]))
    if "heal" in schema.shared_sections:
        # Some methods are healed only where their own section says so.
        own = f"{schema.method}.heal = true and " if "heal" in schema.model_fields else ""
        return f"Heal it (set {own}heal.steps above 0), or raise the budget."
    return "Train it longer, or allow a larger model."


def find_min_retention(job: Mapping[str, Any], budget: str) -> float:
    """Return `min_retention` of a budget; the default where the job does not have the budget."""
    budgets = job.get("budget")
    for settings in budgets if isinstance(budgets, list) else []:
        if isinstance(settings, dict) and settings.get("name") == budget:
            value = settings.get("min_retention", DEFAULT_MIN_RETENTION)
            return float(value) if is_finite_number(value) else DEFAULT_MIN_RETENTION
    return DEFAULT_MIN_RETENTION

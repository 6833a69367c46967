"""Metrics of GLUE and of users' tasks, computed by scikit-learn and scipy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

from raycomp.config.references import is_reference
from raycomp.data.custom_metric import compute_custom
from raycomp.errors import UserError, shown

CLASSIFICATION = ("accuracy", "f1", "accuracy_f1", "matthews")
REGRESSION = ("pearson", "spearman", "pearson_spearman")


def compute(
    names: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    *,
    positive: int = 1,
    allow_custom: bool = False,
) -> dict[str, float]:
    """Return the value of each metric by name.

    Args:
        names: Names of `CLASSIFICATION` or `REGRESSION`, or references to functions of the user.
        labels: (rows,) classes or targets.
        logits: (rows, classes), or (rows, 1) for regression.
        positive: Number of the class that F1 of two classes counts as positive.
        allow_custom: Whether references may be imported. Only a run may import them, and an export that
            the user allows to, because a run directory can come from another person.

    Raises:
        UserError: A name is unknown, or a function of the user failed.
    """
    values = {}
    for name in names:
        if allow_custom and is_reference(name):
            values[name] = compute_custom(name, labels, logits)
        else:
            values[name] = _compute_metric(name, labels, logits, positive)
    return values


def check_metric(name: str, kind: str) -> str:
    """Return the name of a metric that fits the kind of task.

    A reference to a function of the user fits each kind. It is not imported here.

    Raises:
        UserError: The metric does not fit the kind of task.
    """
    if is_reference(name):
        return name
    allowed = REGRESSION if kind == "regression" else CLASSIFICATION
    if name not in allowed:
        near = difflib.get_close_matches(name.lower(), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"task.metric = {shown(repr(name))} does not fit {kind}.{hint} Allowed: {', '.join(allowed)}."
        )
    return name


def choose_safe_metric(primary: str, metrics: Sequence[str]) -> str:
    """Return the primary metric of a run, or another one of it whose computation imports nothing.

    Args:
        primary: The metric by which the run chose its models.
        metrics: All metrics of the run.

    Raises:
        UserError: The run has only metrics that are functions of its author.
    """
    for name in (primary, *metrics):
        if not is_reference(name):
            return name
    raise UserError(
        f"The files are scored by the metric of the run, {shown(primary)}, and its import runs code that "
        "is not raycomp's. If you trust the run, allow it with --allow-code (in Python: allow_code=True)."
    )


def find_positive(name: str | None, classes: Sequence[str], kind: str) -> int:
    """Return the number of the class that F1 counts as positive.

    Args:
        name: `task.positive`, or None for the second class.
        classes: Class names in order.
        kind: Kind of the task.

    Raises:
        UserError: The task does not have two classes, or lacks the class.
    """
    if name is None:
        return 1
    if kind == "regression" or len(classes) != 2:
        number = "a regression" if kind == "regression" else f"{len(classes):,} classes"
        raise UserError(
            f"task.positive = {name!r} needs a task with two classes, but this task has {number}. Remove "
            "the setting."
        )
    if name not in classes:
        raise UserError(
            f"task.positive = {shown(repr(name))} is not a class of the task. Classes: "
            f"{', '.join(classes)}."
        )
    return list(classes).index(name)


def uses_positive(metric: str) -> bool:
    """Return whether a metric of two classes depends on the positive class."""
    return metric in ("f1", "accuracy_f1")


def _compute_metric(name: str, labels: np.ndarray, logits: np.ndarray, positive: int) -> float:
    if name in REGRESSION:
        return _regression_metric(name, labels, logits[:, 0].astype(np.float64))
    if name in CLASSIFICATION:
        num_classes = logits.shape[1]
        return _classification_metric(name, labels, logits.argmax(1), num_classes, positive)
    raise UserError(f"Unknown metric {name!r}. Metrics: {', '.join(CLASSIFICATION + REGRESSION)}.")


def _regression_metric(name: str, labels: np.ndarray, predicted: np.ndarray) -> float:
    # The import takes a second. Training workers compute no metrics, so they never pay for it.
    from scipy import stats

    pearson = _correlation(stats.pearsonr, labels, predicted)
    spearman = _correlation(stats.spearmanr, labels, predicted)
    if name == "pearson":
        return pearson
    if name == "spearman":
        return spearman
    return (pearson + spearman) / 2


def _classification_metric(
    name: str, labels: np.ndarray, predicted: np.ndarray, num_classes: int, positive: int
) -> float:
    accuracy = float(np.mean(labels == predicted))
    if name == "accuracy":
        return accuracy

    # Imported here for the same reason as scipy above: most tasks have accuracy.
    from sklearn import metrics

    if name == "matthews":
        return float(metrics.matthews_corrcoef(labels, predicted))

    if num_classes == 2:
        f1 = metrics.f1_score(labels, predicted, average="binary", pos_label=positive, zero_division=0.0)
    else:
        f1 = metrics.f1_score(labels, predicted, average="macro", zero_division=0.0)
    f1 = float(f1)
    if name == "f1":
        return f1
    return (f1 + accuracy) / 2


def _correlation(function: object, labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return a correlation, or 0 if it is undefined because one side is constant or not finite."""
    is_finite = bool(np.isfinite(predicted).all())
    if len(labels) < 2 or not is_finite or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(function(labels, predicted)[0])  # type: ignore[operator]

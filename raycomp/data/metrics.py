"""The metrics of GLUE and of own tasks, by scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raycomp.config.references import is_reference
from raycomp.data.custom_metric import compute_custom
from raycomp.errors import UserError

CLASSIFICATION = ("accuracy", "f1", "accuracy_f1", "matthews")
REGRESSION = ("pearson", "spearman", "pearson_spearman")


def compute(
    names: Sequence[str], labels: np.ndarray, logits: np.ndarray, *, allow_custom: bool = False
) -> dict[str, float]:
    """Return each metric by name.

    Args:
        names: of CLASSIFICATION or REGRESSION, or references to functions of the user's.
        labels: (rows,) classes or targets.
        logits: (rows, classes), or (rows, 1) for regression.
        allow_custom: Whether references may be imported. Only a run may do so: the metric's name in a
            table may come from somebody else.

    Raises:
        UserError: a name is unknown.
    """
    values = {}
    for name in names:
        if allow_custom and is_reference(name):
            values[name] = compute_custom(name, labels, logits)
        else:
            values[name] = _one(name, labels, logits)
    return values


def check_metric(name: str, kind: str) -> str:
    """Return a metric's name, or raise UserError when it does not fit the kind of task.

    A reference to a function of the user's is not imported: it fits every kind.
    """
    if is_reference(name):
        return name
    allowed = REGRESSION if kind == "regression" else CLASSIFICATION
    if name not in allowed:
        raise UserError(f"task.metric = {name!r} does not fit {kind}. Allowed: {', '.join(allowed)}.")
    return name


def _one(name: str, labels: np.ndarray, logits: np.ndarray) -> float:
    # Imported here: a second in every worker process, which has no use for them.
    if name in REGRESSION:
        from scipy import stats

        predicted = logits[:, 0].astype(np.float64)
        pearson = _correlation(stats.pearsonr, labels, predicted)
        spearman = _correlation(stats.spearmanr, labels, predicted)
        return {
            "pearson": pearson,
            "spearman": spearman,
            "pearson_spearman": (pearson + spearman) / 2,
        }[name]
    from sklearn import metrics as sk

    predicted = logits.argmax(1)
    if name == "accuracy":
        return float(sk.accuracy_score(labels, predicted))
    if name == "matthews":
        return float(sk.matthews_corrcoef(labels, predicted))
    if name in ("f1", "accuracy_f1"):
        average = "binary" if logits.shape[1] == 2 else "macro"
        f1 = float(sk.f1_score(labels, predicted, average=average, zero_division=0.0))
        return f1 if name == "f1" else (f1 + float(sk.accuracy_score(labels, predicted))) / 2
    raise UserError(f"Unknown metric {name!r}. Metrics: {', '.join(CLASSIFICATION + REGRESSION)}.")


def _correlation(function: object, labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return a correlation; 0 where one side is constant and none is defined."""
    finite = bool(np.isfinite(predicted).all())
    if len(labels) < 2 or not finite or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(function(labels, predicted)[0])  # type: ignore[operator]

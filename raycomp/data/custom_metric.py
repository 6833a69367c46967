"""Metrics of the user's own: functions of labels and predictions, or of labels and logits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from raycomp.config.references import resolve_reference
from raycomp.errors import UserError, first_line

SETTING = "task.metric"


def compute_custom(reference: str, labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the value of a metric function; larger values are better.

    A function whose second parameter is called `logits` gets the logits. Any other function gets the
    predictions: class numbers, or the values of a regression. Classes are numbered in the order of
    `task.labels`. The metrics of scikit-learn that take labels and predictions fit as they are.

    Args:
        reference: Reference of the function, such as "my_metrics:profit".
        labels: (rows,) class numbers or targets.
        logits: (rows, classes), or (rows, 1) for regression.

    Raises:
        UserError: The function cannot be imported, it raises an exception, or its value is not a finite
            number.
    """
    function = resolve_reference(reference, SETTING)
    answers = logits
    if not takes_logits(function):
        is_regression = labels.dtype.kind == "f"
        answers = logits[:, 0] if is_regression else logits.argmax(1)

    try:
        value = float(function(labels, answers))
    except Exception as error:
        raise UserError(
            f"The metric {reference} failed: {first_line(error).removesuffix('.')}. It is called with "
            "two NumPy arrays: the labels, and the predictions or logits. Correct the function."
        ) from error
    if not math.isfinite(value):
        raise UserError(
            f"The metric {reference} returned {value}. It must return a finite number for every set of "
            "predictions, also for one with a single class."
        )
    return value


def takes_logits(function: Callable[..., Any]) -> bool:
    """Return whether the second parameter of a metric function is called `logits`."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        # Some functions that are written in C lack a signature.
        return False
    return len(names) > 1 and names[1] == "logits"

"""Whether the teacher of a run is weak: a teacher that has not learned its task limits every network.

Retention, which compares with the teacher, hides such a teacher: it is high for every network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from raycomp.config.references import is_reference
from raycomp.report.bootstrap import bootstrap_replicates
from raycomp.report.formatting import format_score
from raycomp.report.loading import RunTables
from raycomp.report.predictions import TEACHER, Predictions, load_predictions
from raycomp.report.run_record import RunRecord
from raycomp.report.shortfall import is_at_chance
from raycomp.storage.files import read_array
from raycomp.storage.layout import RunLayout

LEARNED_SHARE = 0.5
"""Share of the loss of a constant answer. A teacher with a lower training loss has learned its task."""

LEARNED_LOSS = 1.0
"""The same as a loss (tasks with many classes): the correct class has a probability of 1/e."""

LOSS_FALL = 0.05
"""Relative fall of the loss in the last third of a training that had not come to an end."""

LEAST_STEPS = 30
"""Steps of a training whose thirds are compared. Fewer losses are too noisy."""

LEVEL = 0.025
"""Probability that a network as good as the teacher is taken as better, over all networks of a run."""

LONGER = 2.0
"""Number of times the present length that a message advises."""


def find_teacher_warnings(tables: RunTables, run: RunRecord) -> list[str]:
    """Return sentences on a weak teacher: what happened, why it matters, what to do.

    Args:
        tables: Tables of the run. Before the first deployment only the teacher itself is examined.
        run: The run's record.
    """
    steps = tables.steps[(tables.steps["run"] == run.name) & (tables.steps["method"] == "teacher")]
    losses = steps.sort_values("step")["loss"].to_numpy(float)
    advice = _advise(run, steps)
    sentences = (
        _describe_chance(run),
        _describe_training(losses, _constant_loss(run)),
        _describe_better_network(tables, run),
    )
    return [f"{text} {advice}" for text in sentences if text]


def _describe_chance(run: RunRecord) -> str:
    """Return a sentence on a teacher that is at chance; empty for another one."""
    score = run.teacher_score("validation")
    predictions = _load(run, TEACHER, TEACHER, score)
    if score is None or predictions is None or not is_at_chance(str(run.metric), predictions):
        return ""
    return (
        f"The teacher is at chance: its validation score {format_score(score)} is not shown to be better "
        "than a constant answer. Networks that learn from it cannot be good, and their retention does "
        "not mean anything. Check the label column."
    )


def _describe_training(losses: np.ndarray, constant: float | None) -> str:
    """Return a sentence on a training that ended too early; empty for another one."""
    if constant is None or not is_still_learning(losses, constant):
        return ""
    middle, last = _last_thirds(losses)
    return (
        f"The teacher was still learning when its training ended after {len(losses):,} steps: its mean "
        f"training loss fell from {middle:.2f} to {last:.2f} in the last third, and a constant answer "
        f"has {constant:.2f}. Networks that learn from it are limited by it."
    )


def is_still_learning(losses: np.ndarray, constant: float) -> bool:
    """Return whether a training ended while the loss was high and still fell.

    Args:
        losses: Training loss of each step.
        constant: Loss of the best constant answer.
    """
    if len(losses) < LEAST_STEPS or constant <= 0:
        return False
    middle, last = _last_thirds(losses)
    learned = min(LEARNED_SHARE * constant, LEARNED_LOSS)
    return last > learned and last < (1 - LOSS_FALL) * middle


def _last_thirds(losses: np.ndarray) -> tuple[float, float]:
    """Return the mean loss of the middle third and of the last third of the steps."""
    third = len(losses) // 3
    return float(losses[-2 * third : -third].mean()), float(losses[-third:].mean())


def _constant_loss(run: RunRecord) -> float | None:
    """Return the loss of the best constant answer, from the labels of the selection split."""
    # Targets of a regression are standardised.
    if run.facts.get("kind") == "regression":
        return 1.0
    labels = read_array(RunLayout(run.path).predictions("labels", "selection"))
    if labels is None or not len(labels):
        return None
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _describe_better_network(tables: RunTables, run: RunRecord) -> str:
    """Return a sentence on the best network, if it beats the teacher by more than chance explains."""
    deployed = tables.of(run.name).deployments
    deployed = deployed[deployed["validation"].notna()]
    teacher_score = run.teacher_score("validation")
    if teacher_score is None or deployed.empty:
        return ""

    best: Mapping[Any, Any] = deployed.sort_values("validation").to_dict("records")[-1]
    score = float(best["validation"])
    # The comparison of most runs ends here, before files are read.
    if score <= teacher_score:
        return ""
    own = _load(run, str(best["method"]), str(best["budget"]), score)
    teacher = _load(run, TEACHER, TEACHER, teacher_score)
    if own is None or teacher is None or not own.same_examples(teacher):
        return ""
    if not is_better(str(run.metric), own, teacher, len(deployed)):
        return ""
    return (
        "A compressed network is better than the teacher by more than chance explains: "
        f"{best['method']} {best['budget']} has validation {format_score(score)}, the teacher "
        f"{format_score(teacher_score)}. The teacher has not learned all that the encoder can learn, and "
        "every retention is too high."
    )


def is_better(metric: str, own: Predictions, teacher: Predictions, networks: int) -> bool:
    """Return whether the best of some networks beats the teacher by more than chance explains.

    Args:
        metric: A metric of raycomp's own.
        own: Outputs of the best network.
        teacher: Outputs of the teacher on the same examples.
        networks: Number of networks that it is the best of.
    """
    differences = bootstrap_replicates(metric, [own]) - bootstrap_replicates(metric, [teacher])
    # The best of many networks is above the teacher by chance more often than one network is.
    quantile = NormalDist().inv_cdf(1 - LEVEL / networks)
    return own.value(metric) - teacher.value(metric) > quantile * float(differences.std())


def _load(run: RunRecord, method: str, budget: str, score: float | None) -> Predictions | None:
    """Return the outputs of a model on the validation splits; None if they are not known."""
    if score is None or run.metric is None or is_reference(run.metric):
        return None
    return load_predictions(run.path, method, budget, run.metric, score)


def _advise(run: RunRecord, steps: pd.DataFrame) -> str:
    """Return what a user can do about a weak teacher."""
    figures = run.overview.figures if run.overview is not None else {}
    teacher = figures.get("teacher")
    if isinstance(teacher, dict) and teacher.get("is_given"):
        return "Fine-tune the model longer, or set teacher.mode = 'train'."
    if len(steps) < 2:
        return "Train the teacher longer: raise teacher.epochs."
    # Column `epoch` begins with 0, so its last value lacks one step.
    epochs = float(steps["epoch"].max()) * len(steps) / (len(steps) - 1)
    return (
        f"Train the teacher longer: set teacher.epochs = {math.ceil(LONGER * epochs - 1e-9)} (it was "
        f"{epochs:.3g})."
    )

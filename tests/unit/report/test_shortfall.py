"""Models far below their teacher are marked, and the sentence says what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raycomp.report.predictions import Predictions
from raycomp.report.shortfall import (
    CHANCE,
    LOW_RETENTION,
    describe_shortfall,
    find_min_retention,
    find_shortfall,
    is_at_chance,
)


def classify(share_correct: float, classes: int = 2, rows: int = 400, major: float = 0.5) -> Predictions:
    """Return predictions of which a share is correct; the first class has the share `major`."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(rows) < major, 0, rng.integers(1, max(2, classes), rows))
    is_correct = np.arange(rows) < share_correct * rows
    wrong = (labels + 1) % classes
    predicted = np.where(rng.permutation(is_correct), labels, wrong)
    return Predictions((labels,), (np.eye(classes)[predicted],))


@pytest.mark.parametrize("metric", ["accuracy", "f1", "accuracy_f1", "matthews"])
def test_guesses_are_at_chance_and_good_models_are_not(metric: str) -> None:
    assert is_at_chance(metric, classify(0.5))
    assert not is_at_chance(metric, classify(0.9))


def test_chance_is_the_largest_class() -> None:
    """70% of the answers are correct, but 80% would be with one constant answer."""
    assert is_at_chance("accuracy", classify(0.70, major=0.8))
    assert not is_at_chance("accuracy", classify(0.95, major=0.8))


def test_many_classes_are_better_than_chance_at_a_low_score() -> None:
    """The network of 151 intents with an accuracy of 7%: not chance, but far below its teacher."""
    predictions = classify(0.074, classes=151, rows=1000, major=0.01)
    assert find_shortfall("accuracy", predictions, 0.074 / 0.909) == LOW_RETENTION


@pytest.mark.parametrize("metric", ["pearson", "spearman", "pearson_spearman"])
def test_a_correlation_of_zero_is_chance(metric: str) -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=200)
    noise = rng.normal(size=200)
    assert is_at_chance(metric, Predictions((target,), (noise[:, None],)))
    assert is_at_chance(metric, Predictions((target,), (np.zeros((200, 1)),)))
    assert not is_at_chance(metric, Predictions((target,), ((target + noise)[:, None],)))


def test_a_small_difference_from_chance_needs_examples() -> None:
    assert is_at_chance("accuracy", classify(0.54, rows=200))
    assert not is_at_chance("accuracy", classify(0.54, rows=20_000))


@pytest.mark.parametrize(
    ("retention", "floor", "mark"),
    [(0.89, 0.9, LOW_RETENTION), (0.9, 0.9, None), (0.89, 0.0, None), (None, 0.9, None)],
)
def test_a_model_below_the_floor_is_marked(
    retention: float | None, floor: float, mark: str | None
) -> None:
    assert find_shortfall("accuracy", classify(0.9), retention, floor) == mark


def test_chance_comes_before_retention_and_custom_metrics_have_no_chance() -> None:
    assert find_shortfall("accuracy", classify(0.5), 0.6) == CHANCE
    assert find_shortfall("module:function", classify(0.5), 0.6) == LOW_RETENTION
    assert find_shortfall("accuracy", None, 0.95) is None


ROW: dict[str, Any] = {
    "method": "yoco", "budget": "tiny", "validation": 0.66, "teacher_validation": 0.84,
    "retention": 0.786, "warning": LOW_RETENTION, "heal_steps": float("nan"),
}  # fmt: skip


def test_the_sentence_says_what_is_wrong_and_what_to_do() -> None:
    job = {"budget": [{"name": "tiny", "min_retention": 0.95}]}
    text = describe_shortfall(ROW, job)
    assert "yoco for tiny keeps 78.6% of the teacher's score, less than 95.0%" in text
    assert "validation 0.660, teacher 0.840" in text
    assert "heal.steps above 0" in text
    assert "longer than 230 steps" in describe_shortfall({**ROW, "heal_steps": 230.0}, job)
    assert "Train it longer" in describe_shortfall({**ROW, "method": "first_n"}, job)
    assert "is at chance" in describe_shortfall({**ROW, "warning": CHANCE}, job)
    assert describe_shortfall({**ROW, "warning": None}, job) == ""
    assert describe_shortfall({**ROW, "warning": float("nan")}, job) == ""


@pytest.mark.parametrize("job", [{}, {"budget": None}, {"budget": [3]}, {"budget": [{"name": "tiny"}]}])
def test_jobs_of_older_runs_have_the_default_floor(job: dict[str, Any]) -> None:
    assert find_min_retention(job, "tiny") == 0.9


def test_chance_of_f1_is_about_the_class_that_the_task_names() -> None:
    """The positive class is the first one, with 10% of the rows: every constant answer has a low F1."""
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.9).astype(int)
    hits = rng.random(400) < 0.75
    predicted = np.where(hits, labels, 1 - labels)
    good = Predictions((labels,), (np.eye(2)[predicted],), positive=0)
    constant = Predictions((labels,), (np.eye(2)[np.zeros(400, int)],), positive=0)

    # With the other class as positive, the constant answer would have an F1 of 0.95.
    assert constant.value("f1") < good.value("f1") < 0.5
    assert not is_at_chance("f1", good)
    assert is_at_chance("f1", constant)

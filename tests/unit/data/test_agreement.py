"""Judgement of a given teacher: wrong orders and chance are found, good teachers never refused."""

from __future__ import annotations

import numpy as np
import pytest

from raycomp.data.agreement import Agreement, balanced_rows, find_better_order, measure_agreement
from raycomp.data.target_scaling import IDENTITY, TargetScaling


def simulate(
    rows: int, classes: int, accuracy: float, order: np.ndarray | None = None, seed: int = 0
) -> Agreement:
    """Labels in turn, predictions that are right with a probability, outputs in an order."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    wrong = (labels + rng.integers(1, classes, rows)) % classes
    predicted = np.where(rng.random(rows) < accuracy, labels, wrong)
    if order is not None:
        predicted = order[predicted]
    return measure_agreement(labels, predicted, np.full(classes, 1 / classes))


@pytest.mark.parametrize("accuracy", [1.0, 0.75])
@pytest.mark.parametrize("classes", [2, 3, 11, 77])
@pytest.mark.parametrize("rows", [4, 16, 40, 100, 512])
def test_a_good_teacher_is_never_refused(rows: int, classes: int, accuracy: float) -> None:
    for seed in range(5):
        agreement = simulate(rows, classes, accuracy, seed=seed)
        assert agreement.better_order is None
        assert not agreement.is_near_chance


@pytest.mark.parametrize("rows", [4, 8, 16])
def test_few_rows_never_show_chance(rows: int) -> None:
    for seed in range(20):
        assert not simulate(rows, 2, 0.5, seed=seed).is_near_chance


@pytest.mark.parametrize(("rows", "classes"), [(120, 2), (512, 2), (120, 11), (512, 77)])
def test_a_teacher_that_knows_nothing_is_near_chance(rows: int, classes: int) -> None:
    found = [simulate(rows, classes, 1 / classes, seed=seed).is_near_chance for seed in range(20)]
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("rows", [40, 200])
def test_a_constant_answer_is_near_chance(rows: int) -> None:
    """Also where one class has most rows of train, and the constant answer a high accuracy."""
    labels = np.arange(rows) % 2
    agreement = measure_agreement(labels, np.zeros(rows, int), np.array([0.95, 0.05]))
    assert agreement.accuracy == pytest.approx(0.95)
    assert agreement.majority == 0.95
    assert agreement.is_near_chance
    assert agreement.better_order is None


@pytest.mark.parametrize(
    ("classes", "rows", "accuracy"),
    [(2, 14, 1.0), (2, 60, 0.9), (2, 200, 0.75), (3, 60, 0.9), (11, 132, 0.95), (77, 512, 0.9)],
)
def test_another_order_is_found(classes: int, rows: int, accuracy: float) -> None:
    order = np.roll(np.arange(classes), 1)
    agreement = simulate(rows, classes, accuracy, order, seed=3)
    assert agreement.better_order == tuple(order)
    assert agreement.better_accuracy > accuracy - 0.15


def test_text_order_of_eleven_numbers_is_found() -> None:
    """Classes "0", "1", "10", "2", .. and outputs 0 to 10: most classes are another's."""
    order = np.array(sorted(range(11), key=str))
    agreement = simulate(132, 11, 0.95, order)
    assert agreement.better_order == tuple(order)


def test_one_pair_of_many_classes_is_found() -> None:
    order = np.arange(20)
    order[[4, 7]] = [7, 4]
    assert simulate(512, 20, 0.95, order).better_order == tuple(order)


def test_confused_neighbours_are_not_another_order() -> None:
    """Stars 1 to 5: a teacher that often says one star more than the label has no wrong order."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = np.arange(500) % 5
        shift = (rng.random(500) < 0.45).astype(int)
        predicted = np.minimum(labels + shift, 4)
        assert find_better_order(labels, predicted, 5) is None


def test_noise_is_not_another_order() -> None:
    for seed in range(40):
        assert simulate(60, 2, 0.5, seed=seed).better_order is None


def test_rows_are_balanced_over_the_classes() -> None:
    labels = np.array([0] * 900 + [1] * 95 + [2] * 5)
    rows = balanced_rows(labels, 100, 0)
    assert len(set(rows.tolist())) == 100
    counts = np.bincount(labels[rows])
    assert counts[2] == 5
    assert abs(counts[0] - counts[1]) <= 1
    first = np.bincount(labels[rows[:30]], minlength=3)
    assert first.min() >= 5
    assert len(balanced_rows(labels[:7], 100, 0)) == 7
    assert not np.array_equal(rows, balanced_rows(labels, 100, 1))


def test_accuracy_is_that_of_the_shares_in_train() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    predicted = np.array([0] * 50 + [0] * 25 + [1] * 25)
    agreement = measure_agreement(labels, predicted, np.array([0.9, 0.1]))
    assert agreement.accuracy == pytest.approx(0.95)
    assert agreement.balanced == pytest.approx(0.75)
    assert agreement.low < 0.95 < agreement.high
    assert agreement.is_above_chance


def test_targets_are_standardised_and_restored() -> None:
    targets = np.array([180_000, 200_000, 256_000], np.float32)
    scaling = TargetScaling.of(targets)
    inside = scaling.standardise(targets)
    assert inside.dtype == np.float32
    assert inside.mean() == pytest.approx(0, abs=1e-6)
    assert inside.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(scaling.restore(inside), targets, rtol=1e-6)
    assert TargetScaling.of(np.full(3, 7.0)) == TargetScaling(7.0, 1.0)
    assert IDENTITY.standardise(targets) is targets

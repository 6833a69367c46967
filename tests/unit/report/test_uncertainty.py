"""Intervals against scipy and published examples, and the sentences on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raycomp.report.uncertainty import (
    describe_best,
    describe_gap,
    describe_teacher_difference,
    effective_examples,
    newcombe_interval,
    standard_error,
    wilson_interval,
)


def test_the_standard_error_is_that_of_binomial_counts() -> None:
    shares = np.random.default_rng(0).binomial(400, 0.8, 200_000) / 400
    assert standard_error(0.8, 400) == pytest.approx(shares.std(), rel=0.01)


@pytest.mark.parametrize(("right", "examples"), [(0, 20), (7, 20), (845, 1000), (20, 20)])
def test_wilson_is_scipy_s(right: int, examples: int) -> None:
    expected = stats.binomtest(right, examples).proportion_ci(method="wilson")
    interval = wilson_interval(right / examples, examples)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_newcombe_s_published_example() -> None:
    # Newcombe 1998, Table II, (a): 56/70 - 48/80, method 10.
    assert newcombe_interval(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_an_interval_of_equal_shares_covers_zero_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.binomial(500, 0.85, 2000) / 500, rng.binomial(500, 0.85, 2000) / 500
    covered = 0
    for a, b in zip(first, second, strict=True):
        low, high = newcombe_interval(float(a), 500, float(b), 500)
        covered += low <= 0 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))


def test_effective_examples_give_the_variance_of_the_mean() -> None:
    assert effective_examples([1000]) == 1000
    assert effective_examples([1000, 1000]) == pytest.approx(2000)
    assert effective_examples([100, 900]) == pytest.approx(4 / (1 / 100 + 1 / 900))
    with pytest.raises(ValueError, match="at least one"):
        effective_examples([])


def test_sentences_say_whether_chance_explains_a_difference() -> None:
    assert "No difference is shown" in describe_teacher_difference(0.839, 0.845, 1000)
    assert "(paired 95% interval of the difference: -0.012 to -0.001)" in describe_teacher_difference(
        0.839, 0.845, 1000, (-0.012, -0.001)
    )
    assert "Chance does not explain" in describe_teacher_difference(0.70, 0.845, 1000)
    assert "can be due to chance" in describe_gap(0.85, 750, 0.83, 1000, 0.01)
    assert "the teacher's own gap is +0.010" in describe_gap(0.95, 750, 0.80, 1000, 0.01)
    sentence = describe_best([("a", 0.80), ("b", 0.90), ("c", 0.895)], 1000)
    assert sentence.startswith("The best validation score is 0.900 (b).")
    assert "not shown to be worse: c." in sentence
    assert "by more than chance explains: a." in sentence
    sentence = describe_best(
        [("a", 0.80), ("b", 0.90), ("c", 0.895)], 1000, lambda one, other: (0.001, 0.009)
    )
    assert "by more than chance explains: c, a." in sentence

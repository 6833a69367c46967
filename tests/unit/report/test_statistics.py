"""Statistics against hand-computed values, scipy, and repeated rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raycomp.data.metrics import compute
from raycomp.report.bootstrap import bootstrap_replicates, weighted_metric
from raycomp.report.predictions import Predictions
from raycomp.report.statistics import (
    NO_DIFFERENCE,
    break_even_budgets,
    compare_variants,
    estimate_correlation,
    estimate_mean,
    kendall_tau,
)


def answers(right: float, rows: int = 400, seed: int = 0, classes: int = 2) -> Predictions:
    """A model that answers so large a share rightly, of labels that are the same for every seed."""
    labels = np.random.default_rng(7).integers(classes, size=rows)
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(rows) < right, labels, (labels + 1) % classes)
    return Predictions((labels,), (np.eye(classes, dtype=np.float32)[predicted],))


def test_mean_deviation_and_student_s_interval_by_hand() -> None:
    result = estimate_mean([0.80, 0.82, 0.87])
    assert result.mean == pytest.approx(0.83)
    assert result.sd == pytest.approx(0.0360555, abs=1e-7)  # sqrt((.03^2 + .01^2 + .04^2) / 2)
    assert result.high - result.mean == pytest.approx(4.302653 * 0.0360555 / math.sqrt(3), abs=1e-6)
    assert result.basis == "seeds"
    alone = estimate_mean([0.8])
    assert math.isnan(alone.sd)
    assert math.isnan(alone.low)
    assert alone.basis == ""
    same = estimate_mean([0.8, 0.8])
    assert (same.sd, same.low, same.high) == (0, 0.8, 0.8)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "accuracy_f1", "matthews"])
@pytest.mark.parametrize("classes", [2, 3])
def test_weighted_metrics_are_those_of_repeated_rows(metric: str, classes: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(classes, size=12)
    logits = rng.normal(size=(12, classes))
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=200)
    expected = [
        compute([metric], np.repeat(labels, w), np.repeat(logits, w, axis=0))[metric] for w in weights
    ]
    assert weighted_metric(metric, labels, logits, weights) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["pearson", "spearman", "pearson_spearman"])
def test_weighted_correlations_are_those_of_repeated_rows(metric: str) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(5, size=30).astype(np.float32)  # with ties
    logits = (labels + rng.normal(size=30)).astype(np.float32)[:, None]
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=50)
    expected = [
        compute([metric], np.repeat(labels, w), np.repeat(logits, w, axis=0))[metric] for w in weights
    ]
    assert weighted_metric(metric, labels, logits, weights) == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_one_seed_is_scipy_s_bootstrap() -> None:
    model = answers(0.8)
    right = (model.logits[0].argmax(1) == model.labels[0]).astype(float)
    expected = stats.bootstrap(
        (right,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    result = estimate_mean([model.value("accuracy")], "accuracy", [model])
    assert result.basis == "examples"
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), abs=0.006)
    assert estimate_mean([model.value("accuracy")], "accuracy", [model]) == result  # the draws are seeded


def test_seeds_widen_the_interval() -> None:
    alike = [answers(0.8, seed=0)] * 3
    unlike = [answers(r, seed=s) for s, r in enumerate((0.7, 0.8, 0.9))]
    assert np.std(bootstrap_replicates("accuracy", unlike)) > 1.5 * np.std(
        bootstrap_replicates("accuracy", alike)
    )


def test_two_splits_have_equal_weight() -> None:
    small, large = answers(1.0, rows=50), answers(0.5, rows=800)
    both = Predictions((*small.labels, *large.labels), (*small.logits, *large.logits))
    assert both.value("accuracy") == pytest.approx((1 + large.value("accuracy")) / 2)
    assert np.mean(bootstrap_replicates("accuracy", [both])) == pytest.approx(
        both.value("accuracy"), abs=0.005
    )


def test_a_paired_test_detects_a_difference_that_separate_intervals_do_not() -> None:
    """The second errs wherever the first does, and on 12 examples more."""
    first = answers(0.8, rows=400)
    logits = first.logits[0].copy()
    right = np.flatnonzero(logits.argmax(1) == first.labels[0])[:12]
    logits[right] = logits[right][:, ::-1]
    second = Predictions(first.labels, (logits,))
    a, b = first.value("accuracy"), second.value("accuracy")
    alone = [estimate_mean([v], "accuracy", [x]) for v, x in ((a, first), (b, second))]
    assert alone[1].high > alone[0].low
    result = compare_variants([a], [b], "accuracy", ([first], [second]))
    assert result.test == "paired bootstrap"
    assert result.difference == pytest.approx(12 / 400)
    assert result.low > 0
    assert result.p < 0.01
    assert result.verdict == "higher"
    assert compare_variants([b], [a], "accuracy", ([second], [first])).verdict == "lower"


def test_false_positives_are_as_rare_as_the_level_says() -> None:
    num_told_apart = 0
    for i in range(100):
        model, other = answers(0.8, rows=200, seed=2 * i), answers(0.8, rows=200, seed=2 * i + 1)
        values = [[m.value("accuracy")] for m in (model, other)]
        num_told_apart += (
            compare_variants(*values, "accuracy", ([model], [other])).verdict != NO_DIFFERENCE
        )
    assert num_told_apart <= 100 * (0.05 + 4 * math.sqrt(0.05 * 0.95 / 100))


def test_without_saved_outputs_the_test_is_a_paired_t_test() -> None:
    first, second = [0.81, 0.84, 0.86], [0.80, 0.82, 0.83]
    result = compare_variants(first, second)
    assert result.test == "paired t-test"
    assert result.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert (result.low <= 0 <= result.high) == (result.p > 0.05)
    assert result.verdict == NO_DIFFERENCE
    assert compare_variants([0.5, 0.5], [0.5, 0.5]).p == 1
    assert compare_variants([0.8], [0.7]).verdict == "no test: fewer than 2 pairs"
    assert compare_variants([], []).verdict == "no test: no pair of runs"


def test_models_with_different_examples_are_not_paired_by_example() -> None:
    first = [answers(0.8, seed=s) for s in range(2)]
    second = [answers(0.8, rows=300, seed=s) for s in range(2)]
    values = [[m.value("accuracy") for m in model] for model in (first, second)]
    assert compare_variants(*values, "accuracy", (first, second)).test == "paired t-test"


def test_kendall_tau_by_hand() -> None:
    # Of 6 pairs, 5 agree and 1 does not: tau = 4/6; p = 2 * (1 + 3) / 24.
    tau, p = kendall_tau([1, 2, 3, 4], [1, 2, 4, 3])
    assert tau == pytest.approx(4 / 6)
    assert p == pytest.approx(8 / 24)
    assert math.isnan(kendall_tau([1, 2, 3], [5, 5, 5])[0])
    assert math.isnan(kendall_tau([1, 2], [1, 2])[0])


def test_the_interval_of_a_correlation_stays_inside_its_range() -> None:
    """By hand: z = artanh(r), Student's interval of z with t = 4.3027, and tanh of both ends."""
    taus = [0.699, 0.933, 0.919]
    z = [0.5 * math.log((1 + tau) / (1 - tau)) for tau in taus]
    half = 4.302653 * np.std(z, ddof=1) / math.sqrt(3)
    result = estimate_correlation(taus)
    assert result.mean == pytest.approx(np.mean(taus))
    assert result.low == pytest.approx(math.tanh(np.mean(z) - half), abs=1e-6)
    assert result.high == pytest.approx(math.tanh(np.mean(z) + half), abs=1e-6)

    # Student's interval of the correlations themselves leaves the range.
    assert estimate_mean(taus).high > 1
    perfect = estimate_correlation([1.0, 0.8, 1.0])
    assert -1 < perfect.low < perfect.high <= 1


def test_break_even() -> None:
    assert break_even_budgets(100, 5, 30) == 4
    assert break_even_budgets(100, 5, 25) == 5
    assert break_even_budgets(0, 5, 30) == 1
    assert break_even_budgets(100, 30, 30) is None

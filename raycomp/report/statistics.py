"""Statistics of a study: mean, spread, intervals, paired tests, rank agreement and break-even.

Where a run saved its models' outputs, intervals and tests are a bootstrap over examples and seeds
(`raycomp.report.bootstrap`). Otherwise they are Student's, over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from raycomp.report.bootstrap import LEVEL, bootstrap_replicates, percentile_interval, two_sided_p
from raycomp.report.predictions import Predictions

NO_DIFFERENCE = "no difference shown"
MIN_RANKED = 3  # pairs that a rank correlation needs
MAX_CORRELATION = 0.999  # largest absolute correlation on Fisher's scale


@dataclass(frozen=True)
class Estimate:
    """A variant's mean score over its seeds.

    Attributes:
        seeds: Number of values.
        mean: Mean of the values.
        sd: Standard deviation of the values (n - 1 in the denominator); NaN for one value.
        low, high: 95% interval of the mean; NaN if `basis` is empty.
        basis: Source of variation that the interval covers: "examples and seeds", "examples" or "seeds";
            an empty text without an interval.
    """

    seeds: int
    mean: float
    sd: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two variants.

    Attributes:
        pairs: Number of seeds that both variants have.
        difference: Mean of first minus second; NaN without a pair.
        low, high: 95% interval of the difference; NaN if `test` is "none".
        p: Two-sided p-value of the hypothesis of no difference; NaN if `test` is "none".
        test: "paired bootstrap" over examples and seeds, "paired t-test" over seeds, or "none".
    """

    pairs: int
    difference: float
    low: float
    high: float
    p: float
    test: str

    @property
    def verdict(self) -> str:
        """What the comparison shows, in words."""
        if self.pairs == 0:
            return "no test: no pair of runs"
        if self.test == "none":
            return "no test: fewer than 2 pairs"
        if self.low <= 0 <= self.high:
            return NO_DIFFERENCE
        return "higher" if self.difference > 0 else "lower"


def estimate_mean(
    values: Sequence[float],
    metric: str = "",
    predictions: Sequence[Predictions] | None = None,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean, standard deviation and interval of one value for each seed.

    Args:
        values: Scores, one for each seed.
        metric: Metric of the scores.
        predictions: Model outputs behind each score, in the same order. Without them the interval is
            Student's, over seeds.
        seed: Seed of the random draws.

    Raises:
        ValueError: `values` is empty, or the number of predictions differs.
    """
    count = len(values)
    if not count:
        raise ValueError("At least one value is needed.")
    if predictions is not None and len(predictions) != count:
        raise ValueError("The numbers of values and of predictions differ.")

    mean = float(np.mean(values))
    sd = math.nan
    if count > 1:
        sd = float(np.std(values, ddof=1))
    if predictions is not None:
        low, high = percentile_interval(bootstrap_replicates(metric, predictions, seed))
        basis = "examples and seeds" if count > 1 else "examples"
        return Estimate(count, mean, sd, low, high, basis)

    if count == 1:
        return Estimate(count, mean, sd, math.nan, math.nan, "")
    low, high = _student_interval(values)
    return Estimate(count, mean, sd, low, high, "seeds")


def estimate_correlation(values: Sequence[float]) -> Estimate:
    """Estimate the mean, standard deviation and interval of a correlation over seeds.

    The interval is Student's on Fisher's scale, z = artanh(r), and is transformed back: it stays between
    -1 and 1.

    Args:
        values: Correlations, one for each seed.
    """
    estimate = estimate_mean(values)
    if estimate.seeds < 2:
        return estimate
    # artanh(1) is infinite.
    bounded = np.clip(np.asarray(values, np.float64), -MAX_CORRELATION, MAX_CORRELATION)
    low, high = _student_interval(np.arctanh(bounded).tolist())
    return replace(estimate, low=math.tanh(low), high=math.tanh(high))


def compare_variants(
    first: Sequence[float],
    second: Sequence[float],
    metric: str = "",
    predictions: tuple[Sequence[Predictions], Sequence[Predictions]] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two variants by the differences of their scores for the same seeds.

    Args:
        first, second: Scores, one for each seed that both variants have, in the same order.
        metric: Metric of the scores.
        predictions: Model outputs behind the scores of both. Without them, or if the variants were scored
            on different examples, the test is a t-test over seeds.
        seed: Seed of the random draws.

    Raises:
        ValueError: The numbers of values or of predictions differ.
    """
    pairs = len(first)
    if len(second) != pairs:
        raise ValueError("Both variants need the same number of values.")

    differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    mean = float(np.mean(differences)) if pairs else math.nan
    if pairs and predictions is not None:
        replicates = _replicate_differences(metric, *predictions, pairs, seed)
        if replicates is not None:
            low, high = percentile_interval(replicates)
            return Comparison(pairs, mean, low, high, two_sided_p(replicates), "paired bootstrap")

    if pairs < 2:
        return Comparison(pairs, mean, math.nan, math.nan, math.nan, "none")
    low, high = _student_interval(differences)
    p = float(mean == 0)
    # If all differences are equal, their spread is 0 and the t statistic is undefined.
    if np.ptp(differences):
        p = float(stats.ttest_rel(first, second).pvalue)
    return Comparison(pairs, mean, low, high, p, "paired t-test")


def _replicate_differences(
    metric: str, first: Sequence[Predictions], second: Sequence[Predictions], pairs: int, seed: int
) -> np.ndarray | None:
    """Return bootstrap replicates of a difference, or None if the examples of a pair differ."""
    if not len(first) == len(second) == pairs:
        raise ValueError("The numbers of values and of predictions differ.")
    if not all(a.same_examples(b) for a, b in zip(first, second, strict=True)):
        return None
    # The same seed draws the same examples for both variants.
    return bootstrap_replicates(metric, first, seed) - bootstrap_replicates(metric, second, seed)


def _student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's interval of a mean; the mean itself if all values are equal."""
    mean = float(np.mean(values))
    error = float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return Kendall's tau-b and its p-value; NaN for fewer than 3 pairs or if one side is constant."""
    if len(first) < MIN_RANKED or not np.ptp(first) or not np.ptp(second):
        return math.nan, math.nan
    result = stats.kendalltau(first, second)
    return float(result.statistic), float(result.pvalue)


def break_even_budgets(once: float, each_after: float, each_separate: float) -> int | None:
    """Return the smallest number of budgets n with once + n * each_after <= n * each_separate.

    Args:
        once: Cost of the super-network, which is trained once.
        each_after: Further cost of each budget with the super-network.
        each_separate: Cost of each budget without it.

    Returns:
        The number; None if the super-network never becomes cheaper.
    """
    if each_after >= each_separate:
        return None
    return max(1, math.ceil(once / (each_separate - each_after)))

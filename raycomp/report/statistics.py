"""Honest statistics of a study: mean, spread, bootstrap intervals, paired tests, rank agreement.

A bootstrap draws examples and seeds again with replacement. The same draws are made for every
variant, so that two variants are compared on the same examples and the same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from raycomp.data.metrics import REGRESSION, compute

DRAWS = 2000
LEVEL = 0.95
CELLS = 20_000_000  # weights of examples that are held at a time
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Predictions:
    """What one model answered to the validation splits of its task.

    Attributes:
        labels: of each split, (rows,).
        logits: of each split, (rows, classes).
    """

    labels: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]

    def value(self, metric: str) -> float:
        """Return the mean of a metric over the splits."""
        pairs = zip(self.labels, self.logits, strict=True)
        return float(np.mean([compute([metric], y, x)[metric] for y, x in pairs]))

    def same_examples(self, other: Predictions) -> bool:
        """Return whether two models were asked the same, as far as labels can tell."""
        return len(self.labels) == len(other.labels) and all(
            np.array_equal(a, b) for a, b in zip(self.labels, other.labels, strict=True)
        )


@dataclass(frozen=True)
class Estimate:
    """A variant's figure over its seeds.

    Attributes:
        seeds: how many values.
        mean: of the values.
        sd: their standard deviation (n - 1 in the denominator); NaN for one value.
        low, high: 95% interval of the mean; NaN where `basis` is empty.
        basis: what the interval covers: "examples and seeds", "examples", "seeds", or "".
    """

    seeds: int
    mean: float
    sd: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Comparison:
    """A variant against another, pair by pair.

    Attributes:
        pairs: seeds that both have.
        difference: mean of first minus second; NaN without a pair.
        low, high: 95% interval of the difference; NaN where `test` is "none".
        p: of no difference, two-sided; NaN where `test` is "none".
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
        """The comparison in plain words."""
        if self.test == "none":
            return "no test: no pair of runs" if not self.pairs else "no test: fewer than 2 pairs"
        if self.low <= 0 <= self.high:
            return NO_DIFFERENCE
        return "higher" if self.difference > 0 else "lower"


def estimate_mean(
    values: Sequence[float],
    metric: str = "",
    answers: Sequence[Predictions] | None = None,
    seed: int = 0,
) -> Estimate:
    """Return mean, deviation and interval of one value per seed.

    Args:
        values: one per seed.
        metric: that `answers` are judged by.
        answers: one per value, in the same order; without them the interval is Student's, over seeds.
        seed: of the draws.

    Raises:
        ValueError: there is no value, or another number of answers.
    """
    if not len(values) or (answers is not None and len(answers) != len(values)):
        raise ValueError("one value per seed is needed, and as many answers")
    mean, sd = float(np.mean(values)), _deviation(values)
    if answers is not None:
        low, high = percentile_interval(bootstrap_replicates(metric, answers, seed))
        basis = "examples and seeds" if len(values) > 1 else "examples"
        return Estimate(len(values), mean, sd, low, high, basis)
    if len(values) < 2:
        return Estimate(len(values), mean, sd, math.nan, math.nan, "")
    low, high = _student(values)
    return Estimate(len(values), mean, sd, low, high, "seeds")


def compare_variants(
    first: Sequence[float],
    second: Sequence[float],
    metric: str = "",
    answers: tuple[Sequence[Predictions], Sequence[Predictions]] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two variants, value by value of the same seeds.

    Args:
        first, second: one value per seed that both have, in the same order.
        metric: that `answers` are judged by.
        answers: of both, one per value; without them, or where they speak of other examples, the
            test is a t-test over seeds.
        seed: of the draws.

    Raises:
        ValueError: the numbers of values or answers differ.
    """
    if len(first) != len(second):
        raise ValueError("as many values of one variant as of the other are needed")
    pairs = len(first)
    apart = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    difference = float(np.mean(apart)) if pairs else math.nan
    if pairs and answers is not None:
        ones, others = answers
        if not len(ones) == len(others) == pairs:
            raise ValueError("as many answers as values are needed")
        if all(a.same_examples(b) for a, b in zip(ones, others, strict=True)):
            drawn = bootstrap_replicates(metric, ones, seed) - bootstrap_replicates(metric, others, seed)
            low, high = percentile_interval(drawn)
            return Comparison(pairs, difference, low, high, _two_sided(drawn), "paired bootstrap")
    if pairs < 2:
        return Comparison(pairs, difference, math.nan, math.nan, math.nan, "none")
    low, high = _student(apart)
    p = float(stats.ttest_rel(first, second).pvalue) if np.ptp(apart) else float(difference == 0)
    return Comparison(pairs, difference, low, high, p, "paired t-test")


def bootstrap_replicates(
    metric: str, answers: Sequence[Predictions], seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Return the metric's mean over seeds, examples and seeds drawn again: (draws,).

    Two variants with as many seeds and examples get the same draws. Seeds that were asked the same
    examples share the draw of examples; where each has examples of its own, each has its own draw.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(answers), size=(draws, len(answers)))
    crossed = all(answers[0].same_examples(a) for a in answers[1:])
    splits = len(answers[0].labels)
    scores = np.zeros((draws, len(answers)))
    for k in range(splits):
        drawn = int(rng.integers(2**63))  # of this split, whatever the number of rows before it
        for s, one in enumerate(answers):
            at = 0
            for weights in _weights(len(one.labels[k]), draws, [drawn, 0 if crossed else s]):
                found = weighted_metric(metric, one.labels[k], one.logits[k], weights)
                scores[at : at + len(found), s] += found / splits
                at += len(found)
    return np.take_along_axis(scores, chosen, axis=1).mean(axis=1)


def _weights(rows: int, draws: int, seed: list[int]) -> Iterator[np.ndarray]:
    """Yield how often each row is drawn, in blocks (draws, rows) that fit into memory."""
    rng = np.random.default_rng(seed)
    step = max(1, CELLS // rows)
    for first in range(0, draws, step):
        count = min(step, draws - first)
        picked = rng.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(picked.ravel(), minlength=count * rows).reshape(count, rows)


def weighted_metric(
    metric: str, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return a metric as if row i stood weights[b, i] times in the split: (draws,).

    Equal to `raycomp.data.metrics.compute` on the repeated rows, for all draws at once.

    Raises:
        ValueError: the metric is unknown.
    """
    weights = weights.astype(float)  # so that products are BLAS's
    if metric in REGRESSION:
        target, predicted = labels.astype(float), logits[:, 0].astype(float)
        pearson = _correlations(target[None], predicted[None], weights)
        if metric == "pearson":
            return pearson
        spearman = _correlations(_ranks(target, weights), _ranks(predicted, weights), weights)
        return spearman if metric == "spearman" else (pearson + spearman) / 2
    predicted, classes = logits.argmax(1), max(logits.shape[1], int(labels.max()) + 1)
    unit = np.eye(classes)
    rows_total = weights.sum(axis=1)
    # Counts of each class and draw: (draws, classes).
    right = weights @ (unit[labels] * (predicted == labels)[:, None])
    said, true = weights @ unit[predicted], weights @ unit[labels]
    accuracy = right.sum(axis=1) / rows_total
    if metric == "accuracy":
        return np.asarray(accuracy)
    if metric == "matthews":
        covariance = right.sum(axis=1) * rows_total - (said * true).sum(axis=1)
        spread = (rows_total**2 - (said**2).sum(axis=1)) * (rows_total**2 - (true**2).sum(axis=1))
        return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)
    if metric in ("f1", "accuracy_f1"):
        seen = said + true > 0
        each = np.where(seen, 2 * right / np.where(seen, said + true, 1), 0.0)
        f1 = each[:, 1] if logits.shape[1] == 2 else each.sum(axis=1) / seen.sum(axis=1)
        return f1 if metric == "f1" else (f1 + accuracy) / 2
    raise ValueError(f"metric {metric!r} is unknown")


def _correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's r under each draw's weights, 0 where one side is constant: (draws,)."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    spread = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    together = (weights * x * y).sum(axis=1)
    return np.where(spread > 0, together / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank of each row among the repeated rows, ties averaged: (draws, rows)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    size = np.add.reduceat(weights[:, order], starts, axis=1)  # of each group of ties
    middle = np.cumsum(size, axis=1) - size + (size + 1) / 2
    group = np.empty(len(values), int)
    group[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    return np.asarray(middle[:, group])


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return Kendall's tau (tau-b) and its p-value; NaN where fewer than 3 pairs or one side is flat."""
    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return math.nan, math.nan
    found = stats.kendalltau(first, second)
    return float(found.statistic), float(found.pvalue)


def break_even_budgets(once: float, each_after: float, each_apart: float) -> int | None:
    """Return the least number of budgets at which compressing once costs no more.

    Args:
        once: cost that is paid once, whatever the number of budgets.
        each_after: further cost of one budget after that.
        each_apart: cost of one budget compressed on its own.

    Returns:
        The number; None where another budget costs no less after all.
    """
    if each_after >= each_apart:
        return None
    return max(1, math.ceil(once / (each_apart - each_after)))


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _student(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's interval of a mean; the mean itself where all values are equal."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def percentile_interval(drawn: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of replicates."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _two_sided(drawn: np.ndarray) -> float:
    """Return twice the smaller tail of the replicates beyond 0; never 0, for draws are finite."""
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(drawn) + 1))

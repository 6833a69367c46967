"""Bootstrap over examples and seeds: replicates of a metric, and intervals from them.

A draw b takes the seeds S_b and the examples with replacement. Example i of split k occurs w_bki times in
draw b, where w_bk is multinomial with n_k trials of equal probability. With K splits, the replicate is

    theta_b = mean over s in S_b of (1 / K) sum_k metric(labels_k, logits_sk; weights w_bk).

All seeds that have the same examples share w_bk. This is the pigeonhole bootstrap for two crossed factors
(A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007). Intervals are
percentile intervals (B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raycomp.data.metrics import REGRESSION
from raycomp.report.predictions import Predictions

DRAWS = 2000
LEVEL = 0.95
MAX_WEIGHTS = 20_000_000  # weights that are in memory at a time


def bootstrap_replicates(
    metric: str, predictions: Sequence[Predictions], seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Return bootstrap replicates of a metric's mean over seeds.

    Two variants with equally many seeds and examples get the same draws, so the difference of their
    replicates is a paired comparison.

    Args:
        metric: Name of the metric.
        predictions: Outputs of one model for each seed.
        seed: Seed of the random draws.
        draws: Number of replicates.

    Returns:
        Replicates, (draws,).
    """
    rng = np.random.default_rng(seed)
    num_seeds = len(predictions)
    num_splits = len(predictions[0].labels)
    seed_draws = rng.integers(num_seeds, size=(draws, num_seeds))  # S_b: (draws, seeds)
    # Positions of models with the same examples, which share the weights w_bk.
    groups = [[position] for position in range(num_seeds)]
    if all(predictions[0].same_examples(other) for other in predictions[1:]):
        groups = [list(range(num_seeds))]

    scores = np.zeros((draws, num_seeds))  # of each draw of examples, before seeds are drawn
    for split in range(num_splits):
        # One number for each split keeps the draws of a split independent of the size of the others.
        split_seed = int(rng.integers(2**63))
        for group in groups:
            num_rows = len(predictions[group[0]].labels[split])
            first = 0
            for weights in _draw_weights(num_rows, draws, [split_seed, group[0]]):
                rows = slice(first, first + len(weights))
                for position in group:
                    values = _weighted_score(metric, predictions[position], split, weights)
                    scores[rows, position] += values / num_splits
                first += len(weights)

    # theta_b: the mean over the drawn seeds.
    return np.take_along_axis(scores, seed_draws, axis=1).mean(axis=1)


def _weighted_score(metric: str, model: Predictions, split: int, weights: np.ndarray) -> np.ndarray:
    return weighted_metric(metric, model.labels[split], model.logits[split], weights, model.positive)


def _draw_weights(num_rows: int, draws: int, seed: list[int]) -> Iterator[np.ndarray]:
    """Yield how often each row is drawn, w_bki, in blocks (draws, rows) of at most MAX_WEIGHTS."""
    rng = np.random.default_rng(seed)
    block = max(1, MAX_WEIGHTS // num_rows)
    for first in range(0, draws, block):
        count = min(block, draws - first)
        drawn_rows = rng.integers(num_rows, size=(count, num_rows))
        # Each draw gets its own range of numbers. One bincount then counts the rows of all draws.
        drawn_rows += num_rows * np.arange(count)[:, None]
        counts = np.bincount(drawn_rows.ravel(), minlength=count * num_rows)
        # numpy multiplies matrices of floats by BLAS, and matrices of integers in a slow loop.
        yield counts.reshape(count, num_rows).astype(float)


def percentile_interval(replicates: np.ndarray) -> tuple[float, float]:
    """Return the 95% percentile interval of bootstrap replicates, (draws,)."""
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def two_sided_p(replicates: np.ndarray) -> float:
    """Return the two-sided p-value of the hypothesis that a difference is 0.

    It is twice the smaller share of replicates on one side of 0. One is added to both counts, because a
    finite number of draws cannot show a probability of 0 (Davison and Hinkley 1997, section 4.2).

    Args:
        replicates: Bootstrap replicates of the difference, (draws,).
    """
    num_beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (num_beyond + 1) / (len(replicates) + 1))


def weighted_metric(
    metric: str, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, positive: int = 1
) -> np.ndarray:
    """Return a metric of a split for every draw b; row i occurs weights[b, i] times in draw b.

    The values equal `raycomp.data.metrics` on the repeated rows.

    Args:
        metric: Name of the metric.
        labels: Labels or targets, (rows,).
        logits: Outputs, (rows, classes).
        weights: Number of times that each row occurs, (draws, rows).
        positive: Number of the class that F1 of two classes counts as positive.

    Returns:
        Values of the metric, (draws,).

    Raises:
        ValueError: The metric is unknown.
    """
    weights = weights.astype(float, copy=False)
    if metric in REGRESSION:
        return _weighted_regression(metric, labels, logits, weights)
    return _weighted_classification(metric, labels, logits, weights, positive)


def _weighted_regression(
    metric: str, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    target = labels.astype(float)
    predicted = logits[:, 0].astype(float)

    pearson = _weighted_correlation(target[None], predicted[None], weights)
    if metric == "pearson":
        return pearson

    # Spearman's rho is Pearson's r of the ranks.
    target_ranks = _weighted_ranks(target, weights)
    predicted_ranks = _weighted_ranks(predicted, weights)
    spearman = _weighted_correlation(target_ranks, predicted_ranks, weights)
    return spearman if metric == "spearman" else (pearson + spearman) / 2


def _weighted_classification(
    metric: str, labels: np.ndarray, logits: np.ndarray, weights: np.ndarray, positive: int
) -> np.ndarray:
    predicted = logits.argmax(1)
    num_classes = max(logits.shape[1], int(labels.max()) + 1)
    one_hot = np.eye(num_classes)
    is_correct = (predicted == labels)[:, None]

    # Weighted counts of each class in each draw: (draws, classes).
    correct_counts = weights @ (one_hot[labels] * is_correct)
    predicted_counts = weights @ one_hot[predicted]
    true_counts = weights @ one_hot[labels]

    num_rows = weights.sum(axis=1)
    num_correct = correct_counts.sum(axis=1)
    accuracy = num_correct / num_rows
    if metric == "accuracy":
        return np.asarray(accuracy)

    if metric == "matthews":
        # R_K of Gorodkin 2004, as in scikit-learn; 0 where one side has a single class.
        covariance = num_correct * num_rows - (predicted_counts * true_counts).sum(axis=1)
        predicted_variance = num_rows**2 - (predicted_counts**2).sum(axis=1)
        true_variance = num_rows**2 - (true_counts**2).sum(axis=1)
        return _divide_or_zero(covariance, predicted_variance * true_variance, root=True)

    if metric in ("f1", "accuracy_f1"):
        # F1 of each class is 2 TP / (predicted + true). A class that does not occur is not averaged.
        occurrences = predicted_counts + true_counts
        class_f1 = _divide_or_zero(2 * correct_counts, occurrences)
        if logits.shape[1] == 2:
            f1 = class_f1[:, positive]
        else:
            f1 = class_f1.sum(axis=1) / (occurrences > 0).sum(axis=1)
        return f1 if metric == "f1" else (f1 + accuracy) / 2

    raise ValueError(f"Metric {metric!r} is unknown.")


def _divide_or_zero(numerator: np.ndarray, denominator: np.ndarray, root: bool = False) -> np.ndarray:
    """Return numerator / denominator, or numerator / sqrt(denominator); 0 if that is undefined."""
    is_defined = denominator > 0
    divisor = np.where(is_defined, denominator, 1)
    if root:
        divisor = np.sqrt(divisor)
    return np.where(is_defined, numerator / divisor, 0.0)


def _weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's r under the weights of each draw; 0 where x or y is constant.

    Args:
        x, y: Values, (1, rows) or (draws, rows).
        weights: Weights of the rows, (draws, rows).

    Returns:
        Correlations, (draws,).
    """
    # Centre both variables under each draw's weights: (draws, rows).
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total

    covariance = (weights * x * y).sum(axis=1)
    variances = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    return _divide_or_zero(covariance, variances, root=True)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank of each row among the repeated rows; tied rows share their mean rank.

    Args:
        values: Values, (rows,).
        weights: Number of times that each row occurs, (draws, rows).

    Returns:
        Ranks, (draws, rows).
    """
    # Sort the rows, and find where each group of equal values begins.
    order = np.argsort(values, kind="stable")
    is_first_of_tie = np.diff(values[order], prepend=np.nan) != 0
    tie_starts = np.flatnonzero(is_first_of_tie)

    # A group of ties of size m that ends at rank r has the mean rank r - m + (m + 1) / 2.
    tie_sizes = np.add.reduceat(weights[:, order], tie_starts, axis=1)  # (draws, groups)
    tie_ranks = np.cumsum(tie_sizes, axis=1) - tie_sizes + (tie_sizes + 1) / 2

    # Give every row the rank of its group, in the original order of the rows.
    group_lengths = np.diff([*tie_starts, len(values)])
    group_of_row = np.empty(len(values), int)
    group_of_row[order] = np.repeat(np.arange(len(tie_starts)), group_lengths)
    return np.asarray(tie_ranks[:, group_of_row])

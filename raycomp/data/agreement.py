"""How far the outputs of a given classifier agree with the labels, beyond chance.

Two faults of a given teacher are found before anything is trained: it does not know the task, or its
outputs are in another order than the classes. Intervals and tests decide, because a good teacher must
not be refused on few rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CHANCE_Z = 2.33
"""Half width of the interval that judges a teacher, in standard errors: 1% on each side."""

REPORT_Z = 1.96
"""Half width of the interval that a user sees: 95%."""

MAX_CHANCE_GAIN = 0.4
"""Largest share of the way from chance to 1 that the interval of a teacher near chance may reach."""

MIN_CHANCE_ROWS = 30
"""Smallest number of rows that can show that a teacher is near chance."""

MAX_ORDER_CHANCE = 0.001
"""Largest probability of the sign test at which another order of the outputs is better."""

MIN_ORDER_GAIN = 0.3
"""Smallest gain of recall of the classes that another order moves."""


MIN_CORRELATION = 0.2
"""A regression model whose correlation is certainly below this does not know the task."""


@dataclass(frozen=True)
class Correlation:
    """Predictions of a regression model against targets.

    Attributes:
        rows: Number of rows.
        pearson: Pearson correlation.
        spearman: Rank correlation.
    """

    rows: int
    pearson: float
    spearman: float

    @property
    def best(self) -> float:
        """The larger correlation: a few extreme targets can hide a good model from one of them."""
        return max(self.pearson, self.spearman)

    def interval(self) -> tuple[float, float]:
        """Return both ends of the interval of the larger correlation (`CHANCE_Z`, Fisher's z)."""
        if self.rows < 4:
            return -1.0, 1.0
        center = math.atanh(min(max(self.best, -0.999999), 0.999999))
        margin = CHANCE_Z / math.sqrt(self.rows - 3)
        return math.tanh(center - margin), math.tanh(center + margin)

    @property
    def is_unrelated(self) -> bool:
        """Whether enough rows show that the correlation is negative or near 0."""
        return self.rows >= MIN_CHANCE_ROWS and self.interval()[1] < MIN_CORRELATION

    @property
    def is_clear(self) -> bool:
        """Whether the correlation is certainly large enough."""
        return self.interval()[0] > MIN_CORRELATION


@dataclass(frozen=True)
class Agreement:
    """Predictions of a classifier against labels, on rows that are balanced over the classes.

    Attributes:
        rows: Number of rows.
        accuracy: Accuracy, weighted with the classes' shares in train.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
        majority: Share of the largest class in train: the accuracy without any knowledge.
        balanced: Mean recall of the classes.
        balanced_low: Lower end of its interval (`CHANCE_Z`).
        balanced_high: Upper end of its interval.
        chance: Mean recall without any knowledge.
        better_order: Output that fits each class better than the assumed one; None where no order is
            clearly better.
        better_accuracy: Mean recall with this order.
    """

    rows: int
    accuracy: float
    low: float
    high: float
    majority: float
    balanced: float
    balanced_low: float
    balanced_high: float
    chance: float
    better_order: tuple[int, ...] | None = None
    better_accuracy: float = 0.0

    @property
    def is_above_chance(self) -> bool:
        """Whether the classifier is better than chance, beyond doubt."""
        return self.balanced_low > self.chance

    @property
    def is_near_chance(self) -> bool:
        """Whether enough rows show that the classifier is not better than chance."""
        limit = self.chance + MAX_CHANCE_GAIN * (1 - self.chance)
        is_certain = self.rows >= MIN_CHANCE_ROWS and self.balanced_high <= limit
        return is_certain and not self.is_above_chance


def balanced_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return at most `count` row numbers with about as many rows of each class, in random order.

    Args:
        labels: (rows,) classes.
        count: Largest number of rows.
        seed: Seed of the choice.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    # The first row of each class comes first, then the second of each class.
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    starts = np.searchsorted(sorted_labels, sorted_labels, side="left")
    rank = np.arange(len(labels)) - starts
    shuffled = rng.permutation(len(labels))
    turns = np.lexsort((shuffled, rank))
    return by_class[turns][:count]


def measure_agreement(labels: np.ndarray, predicted: np.ndarray, shares: np.ndarray) -> Agreement:
    """Compare predictions with labels.

    Args:
        labels: (rows,) classes, from `balanced_rows`.
        predicted: (rows,) predicted classes, with the assumed order of the outputs.
        shares: (classes,) share of each class in train.
    """
    present, numbers = np.unique(labels, return_inverse=True)
    counts = np.bincount(numbers)
    correct = np.bincount(numbers, weights=(labels == predicted).astype(float))
    recalls = correct / counts
    # One success and one failure more: a recall of 1 on few rows is not certain.
    smoothed = (correct + 1) / (counts + 2)
    variances = smoothed * (1 - smoothed) / counts

    # The mean recall judges the teacher: always saying the largest class gives 1 / classes only.
    balanced = float(recalls.mean())
    margin = CHANCE_Z * math.sqrt(variances.sum()) / len(present)

    # A user expects the accuracy on rows as they are in train.
    weights = shares[present] / shares[present].sum()
    accuracy = float((weights * recalls).sum())
    accuracy_margin = REPORT_Z * math.sqrt((weights**2 * variances).sum())

    order = find_better_order(labels, predicted, len(shares))
    better = 0.0
    if order is not None:
        assigned = np.asarray(order)[labels] == predicted
        better = float((np.bincount(numbers, weights=assigned.astype(float)) / counts).mean())
    return Agreement(
        rows=len(labels),
        accuracy=accuracy,
        low=max(0.0, accuracy - accuracy_margin),
        high=min(1.0, accuracy + accuracy_margin),
        majority=float(shares.max()),
        balanced=balanced,
        balanced_low=balanced - margin,
        balanced_high=balanced + margin,
        chance=1 / len(present),
        better_order=order,
        better_accuracy=better,
    )


def find_better_order(labels: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[int, ...] | None:
    """Return the output that fits each class best, where this order is clearly better than the given one.

    The order is chosen on one half of the rows and judged on the other: an order that is chosen on few
    rows always looks better on those rows.

    Args:
        labels: (rows,) classes.
        predicted: (rows,) predicted classes.
        classes: Number of classes.
    """
    half = _alternate_halves(labels)
    gains = 0
    losses = 0

    for fold in (0, 1):
        order = _assign_outputs(labels[half != fold], predicted[half != fold], classes)

        judged = half == fold
        is_right = predicted[judged] == labels[judged]
        is_assigned = predicted[judged] == order[labels[judged]]
        gains += int((is_assigned & ~is_right).sum())
        losses += int((is_right & ~is_assigned).sum())

    if _sign_test(gains, losses) > MAX_ORDER_CHANCE:
        return None

    order = _assign_outputs(labels, predicted, classes)
    moved = np.isin(labels, np.nonzero(order != np.arange(classes))[0])
    if not moved.any():
        return None

    # Classes that a teacher confuses gain little from another order.
    gain = (predicted == order[labels])[moved].mean() - (predicted == labels)[moved].mean()
    return tuple(map(int, order)) if gain >= MIN_ORDER_GAIN else None


def _alternate_halves(labels: np.ndarray) -> np.ndarray:
    """Return 0 or 1 for each row: the rows of a class alternate between two halves."""
    half = np.zeros(len(labels), int)
    for label in np.unique(labels):
        rows = np.nonzero(labels == label)[0]
        half[rows] = np.arange(len(rows)) % 2
    return half


def _assign_outputs(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the output of each class, each output once, with the largest sum of recalls."""
    # Imported here: scipy takes a second to import, and few processes judge a teacher.
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (labels, predicted), 1.0)
    recalls = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)

    # Among equal sums, classes keep their own outputs.
    recalls += 1e-6 * np.eye(classes)
    _, outputs = linear_sum_assignment(recalls, maximize=True)
    return np.asarray(outputs)


def _sign_test(gains: int, losses: int) -> float:
    """Return the probability of at least this many gains if gains and losses were equally likely."""
    from scipy.stats import binomtest

    if gains + losses == 0:
        return 1.0
    return float(binomtest(gains, gains + losses, 0.5, alternative="greater").pvalue)

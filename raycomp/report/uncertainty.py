"""How far a score can be trusted: binomial standard errors, intervals, and what they allow to say.

Of accuracy alone: a share of right answers is a binomial count over the number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Z = 1.959964  # 95%, two-sided
BINOMIAL = ("accuracy",)


def effective_examples(examples: Sequence[int]) -> float:
    """Return how many examples the mean score of several splits is worth.

    The variance of a mean of k shares is about p (1 - p) sum(1 / n) / k^2. One split is worth
    its own number.

    Raises:
        ValueError: there is no split, or one without examples.
    """
    if not examples or min(examples) < 1:
        raise ValueError("each split needs at least one example")
    return len(examples) ** 2 / sum(1 / n for n in examples)


def standard_error(share: float, examples: float) -> float:
    """Return the binomial standard error of a share of right answers: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / examples)


def wilson_interval(share: float, examples: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share; it holds up near 0, near 1 and for few examples."""
    z2 = Z * Z / examples
    middle = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(max(0.0, share * (1 - share)) / examples + z2 / (4 * examples))
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe_interval(
    first: float, first_examples: float, second: float, second_examples: float
) -> tuple[float, float]:
    """Return Newcombe's 95% interval of `first - second`, two shares taken as independent.

    It joins Wilson's intervals (Newcombe 1998, method 10).
    """
    low1, high1 = wilson_interval(first, first_examples)
    low2, high2 = wilson_interval(second, second_examples)
    apart = first - second
    return (
        apart - math.hypot(first - low1, high2 - second),
        apart + math.hypot(high1 - first, second - low2),
    )


Interval = tuple[float, float]


def describe_teacher_difference(
    score: float, teacher: float, examples: float, paired: Interval | None = None
) -> str:
    """Return one sentence on a deployment's validation score against its teacher's.

    Args:
        score, teacher: of the same examples.
        examples: how many they are worth.
        paired: 95% interval of the difference, example by example; without it, Newcombe's, which takes
            the two as independent and so tells fewer apart.
    """
    low, high = paired or newcombe_interval(score, examples, teacher, examples)
    how = "paired" if paired else "unpaired"
    said = f"Validation {score:.3f} is {_apart(score - teacher)} the teacher's {teacher:.3f}, "
    if low <= 0 <= high:
        where = f"inside the {how} interval of that difference ({low:+.3f} to {high:+.3f})"
        return f"{said}{where}: these {examples:,.0f} examples do not tell the two apart."
    return f"{said}which these examples do not explain by chance ({how}: {low:+.3f} to {high:+.3f})."


def describe_gap(
    selection: float,
    selection_examples: float,
    validation: float,
    examples: float,
    teacher_gap: float | None,
) -> str:
    """Return one sentence on the gap between the score that chose and the score that did not.

    `teacher_gap` tells how far the splits differ for a model that selection did not choose.
    """
    low, high = newcombe_interval(selection, selection_examples, validation, examples)
    said = f"Selection is {_apart(selection - validation)} validation, "
    if low <= 0 <= high:
        return f"{said}inside the interval of that gap ({low:+.3f} to {high:+.3f})."
    said += f"outside what chance explains ({low:+.3f} to {high:+.3f})"
    if teacher_gap is None:
        return f"{said}."
    return f"{said}; compare the teacher's own gap, {teacher_gap:+.3f}, which no choice flattered."


def describe_best(
    scores: Sequence[tuple[str, float]],
    examples: float,
    paired: Callable[[str, str], Interval | None] = lambda one, other: None,
) -> str:
    """Return one sentence on which deployments the examples tell apart from the best of them.

    Args:
        scores: name and score of each.
        examples: how many they are worth.
        paired: the 95% interval of the first one's score minus the second one's, where it is known.
    """
    ranked = sorted(scores, key=lambda s: -s[1])
    best_name, best = ranked[0]
    tied: list[str] = []
    beaten: list[str] = []
    for name, score in ranked[1:]:
        low, _ = paired(best_name, name) or newcombe_interval(best, examples, score, examples)
        (tied if low <= 0 else beaten).append(name)
    said = f"Best on validation: {best_name}, {best:.3f}."
    if tied:
        said += f" Not told apart from it, the difference inside its interval: {', '.join(tied)}."
    if beaten:
        said += f" Lower by more than chance: {', '.join(beaten)}."
    return said


def _apart(value: float) -> str:
    """Write a signed difference as words."""
    if abs(value) < 0.0005:
        return "equal to"
    return f"{abs(value):.3f} {'above' if value > 0 else 'below'}"

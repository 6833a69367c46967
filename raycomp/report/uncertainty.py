"""How far a score can be trusted: standard errors, intervals, and sentences on differences.

Standard errors and intervals are for accuracy only. The number of correct predictions is a binomial count
over the number of examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Z = 1.959964  # quantile of the normal distribution for a two-sided level of 95%
BINOMIAL = ("accuracy",)  # metrics that are a share of correct predictions
NEGLIGIBLE = 0.0005  # differences that three decimals do not show

Interval = tuple[float, float]


def effective_examples(examples: Sequence[int]) -> float:
    """Return how many examples of one split would give the variance of a mean over several splits.

    The mean of k accuracies has a variance of about p (1 - p) sum(1 / n) / k^2.

    Args:
        examples: Number of examples of each split.

    Raises:
        ValueError: `examples` is empty, or a split is empty.
    """
    if not examples or min(examples) < 1:
        raise ValueError("Each split needs at least one example.")
    return len(examples) ** 2 / sum(1 / count for count in examples)


def standard_error(share: float, examples: float) -> float:
    """Return the binomial standard error of an accuracy: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / examples)


def wilson_interval(share: float, examples: float) -> Interval:
    """Return Wilson's 95% score interval of an accuracy; it is valid near 0 and 1 and for few examples.

    Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z2 = Z * Z / examples
    center = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(max(0.0, share * (1 - share)) / examples + z2 / (4 * examples))
    return max(0.0, center - half), min(1.0, center + half)


def newcombe_interval(
    first: float, first_examples: float, second: float, second_examples: float
) -> Interval:
    """Return Newcombe's 95% interval of `first - second`, two accuracies on independent examples.

    It combines Wilson's intervals. Reference: R. G. Newcombe, "Interval estimation for the difference
    between independent proportions", 1998, method 10.
    """
    first_low, first_high = wilson_interval(first, first_examples)
    second_low, second_high = wilson_interval(second, second_examples)
    difference = first - second
    return (
        difference - math.hypot(first - first_low, second_high - second),
        difference + math.hypot(first_high - first, second - second_low),
    )


def describe_teacher_difference(
    score: float, teacher: float, examples: float, paired: Interval | None = None
) -> str:
    """Return a sentence that compares a deployed model with its teacher on the validation split.

    Args:
        score, teacher: Accuracies on the same examples.
        examples: Effective number of examples.
        paired: 95% interval of the difference from a paired bootstrap. Without it the interval is
            Newcombe's, which takes the examples as independent and therefore detects fewer differences.
    """
    low, high = paired or newcombe_interval(score, examples, teacher, examples)
    kind = "paired" if paired else "unpaired"
    interval = f"{kind} 95% interval of the difference: {low:+.3f} to {high:+.3f}"
    comparison = f"Validation {score:.3f} is {_compare_to(score - teacher)} the teacher's {teacher:.3f}"
    if low <= 0 <= high:
        return f"{comparison}. No difference is shown ({interval}; {examples:,.0f} examples)."
    return f"{comparison}. Chance does not explain the difference ({interval})."


def describe_gap(
    selection: float,
    selection_examples: float,
    validation: float,
    examples: float,
    teacher_gap: float | None,
) -> str:
    """Return a sentence on the difference between a model's selection and validation scores.

    Args:
        selection, validation: Accuracies of the model on the two splits.
        selection_examples, examples: Effective number of examples of the two splits.
        teacher_gap: The teacher's gap on the same splits, if it is known.
    """
    low, high = newcombe_interval(selection, selection_examples, validation, examples)
    gap = f"The gap of {selection - validation:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
    if low <= 0 <= high:
        return f"{gap} can be due to chance."
    if teacher_gap is None:
        return f"{gap} is larger than chance explains."
    return f"{gap} is larger than chance explains; the teacher's own gap is {teacher_gap:+.3f}."


def describe_best(
    scores: Sequence[tuple[str, float]],
    examples: float,
    find_paired: Callable[[str, str], Interval | None] = lambda first, second: None,
) -> str:
    """Return a sentence on which deployed models differ from the best one by more than chance.

    Args:
        scores: Name and validation accuracy of each model.
        examples: Effective number of examples.
        find_paired: Function that returns the 95% interval of the first model's accuracy minus the second
            model's from a paired bootstrap, or None if it is not known.
    """
    ranked = sorted(scores, key=lambda named_score: -named_score[1])
    best_name, best_score = ranked[0]
    tied: list[str] = []
    lower: list[str] = []
    for name, score in ranked[1:]:
        interval = find_paired(best_name, name)
        low, _ = interval or newcombe_interval(best_score, examples, score, examples)
        if low <= 0:
            tied.append(name)
        else:
            lower.append(name)

    text = f"The best validation score is {best_score:.3f} ({best_name})."
    if tied:
        text += f" These models are not shown to be worse: {', '.join(tied)}."
    if lower:
        text += f" These models are worse by more than chance explains: {', '.join(lower)}."
    return text


def _compare_to(difference: float) -> str:
    """Return a signed difference as words, such as "0.010 below"."""
    if abs(difference) < NEGLIGIBLE:
        return "equal to"
    direction = "above" if difference > 0 else "below"
    return f"{abs(difference):.3f} {direction}"

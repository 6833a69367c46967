"""Eq. 7: the reward of the deployment search."""

from __future__ import annotations

from typing import Literal

RewardForm = Literal["corrected", "printed"]


def constrained_reward(
    value: float,
    cost: float,
    limit: float,
    largest: float,
    alpha: float = 2.0,
    form: RewardForm = "corrected",
) -> float:
    """Return the reward of an architecture (YOCO-BERT, Eq. 7).

    A budget is met at equality (cost <= limit); the paper writes a strict inequality. As printed, the
    factor of a violator is ((T(m)-O)/(T(M)-O))^a, which GROWS with the violation: the largest network
    keeps its whole accuracy. The corrected form is (1-(T(m)-O)/(T(M)-O))^a.

    Args:
        value: Metric on the selection split; it may be negative (Matthews, Pearson).
        cost: Cost T(m) of the architecture.
        limit: Limit Omega of the budget.
        largest: Cost T(M) of the full network.
        alpha: Exponent.
        form: "corrected" or "printed".
    """
    if cost <= limit:
        return value

    excess = (cost - limit) / (largest - limit)
    base = excess if form == "printed" else max(0.0, 1.0 - excess)
    factor = base**alpha  # Eq. 7
    if value >= 0:
        return value * factor
    # A factor below 1 would raise a negative value. Mirrored, a violation never pays.
    return value * (2.0 - factor)

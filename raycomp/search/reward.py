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
    """Return the reward of an architecture.  # Eq. 7.

    A budget is met at equality (cost <= limit); the paper writes a strict inequality. As printed,
    the factor of a violator is ((T(m)-O)/(T(M)-O))^a, which GROWS with the violation: the largest
    network keeps its whole accuracy. The corrected form is (1-(T(m)-O)/(T(M)-O))^a.

    Args:
        value: metric on the selection split; may be negative (Matthews, Pearson).
        cost: T(m).
        limit: Omega.
        largest: T(M), the cost of the full network.
        alpha: exponent.
        form: "corrected" or "printed".
    """
    if cost <= limit:
        return value
    share = (cost - limit) / (largest - limit)
    factor = (share if form == "printed" else max(0.0, 1.0 - share)) ** alpha
    # A negative value would be raised by a factor below 1; mirror it, so that violation never pays.
    return value * factor if value >= 0 else value * (2.0 - factor)

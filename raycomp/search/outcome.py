"""The result of one trial of the deployment search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Result of one trial.

    Attributes:
        budget: Name of the budget.
        kind: Kind of the budget's cost, such as "params".
        limit: The budget's absolute limit, in the unit of its cost.
        searcher: Name of the searcher.
        seed: Seed of the trial.
        arch: Canonical JSON of the best feasible architecture, or None.
        value: Its score on the selection split.
        loss: Its loss on the selection split.
        evaluations: Number of architectures that the trial asked for, whether or not they had a score.
        seconds: Wall time of the trial.
        reason: Why the search ended without an architecture; else empty.
    """

    budget: str
    kind: str
    limit: float
    searcher: str
    seed: int
    arch: str | None
    value: float
    loss: float
    evaluations: int
    seconds: float
    reason: str = ""

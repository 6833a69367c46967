"""Which of the scored networks a budget deploys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.surrogate import Surrogate

ChooseBy = Literal["score", "loss"]
"""Value of `search.choose_by`."""


def rank_networks(
    archs: Sequence[Architecture],
    values: Sequence[float],
    losses: Sequence[float],
    budget: SearchBudget,
    surrogate: Surrogate | None,
    min_use: float,
    smoothing: float,
    choose_by: ChooseBy = "score",
) -> list[int]:
    """Return the indices of the networks that meet a budget, best first.

    Networks that use at least `min_use` of the limit come before all others: what a budget allows and a
    network leaves unused is accuracy given away, except by luck on the selection split. Within both parts
    the smaller smoothed loss wins,

        (1 - smoothing) * measured loss + smoothing * loss that the surrogate predicts,

    then the larger value, then the smaller cost. Without a surrogate, or with smoothing 0, `choose_by`
    decides: the larger value, then the smaller loss (the paper's form), or the smaller loss, then the
    larger value (HAT's form); then the smaller cost.

    Args:
        archs: Scored architectures.
        values: Metric of each on the selection split.
        losses: Label loss of each on the selection split.
        budget: The budget.
        surrogate: Fitted surrogate of the budget, or None.
        min_use: Part of the limit, 0 to 1.
        smoothing: Weight of the prediction, 0 to 1.
        choose_by: What decides without a prediction.
    """
    # A budget is strict: an architecture over the limit is never deployed, however good.
    feasible = [i for i, arch in enumerate(archs) if budget.is_met_by(arch)]
    if not feasible:
        return []

    costs = {i: budget.cost(archs[i]) for i in feasible}
    least_cost = min_use * min(budget.limit, budget.largest)
    is_wasteful = {i: costs[i] < least_cost for i in feasible}
    if surrogate is None or not surrogate.is_fitted or smoothing == 0:
        if choose_by == "loss":
            return sorted(feasible, key=lambda i: (is_wasteful[i], losses[i], -values[i], costs[i]))
        return sorted(feasible, key=lambda i: (is_wasteful[i], -values[i], losses[i], costs[i]))

    predicted = surrogate.predict([archs[i] for i in feasible])
    measured = np.array([losses[i] for i in feasible], np.float64)
    smoothed = dict(zip(feasible, (1 - smoothing) * measured + smoothing * predicted, strict=True))
    return sorted(feasible, key=lambda i: (is_wasteful[i], smoothed[i], -values[i], costs[i]))

"""The update rules of the architecture distribution by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.regression_rule import RegressionRule
from raycomp.search.updates import ASNG, PrintedRule, UpdateRule


def make_update_rule(
    name: str,
    dist: ArchitectureDistribution,
    costs: Callable[[np.ndarray], np.ndarray] | None = None,
) -> UpdateRule:
    """Return the update rule "raw", "sng", "asng" or "regression" for super-network training.

    ASNG starts with a step of 0.1, not 1: on pure noise it then keeps 96% of the entropy instead of 71%.
    It is slower at first (82% of a known optimum after 100 noisy updates, against 91%) and level by 1,000
    (benchmarks/update_rules.py).

    Args:
        name: Name of the rule.
        dist: Distribution that the rule will update.
        costs: From choice indices (samples, variables) to costs (samples,), which "regression" needs to
            tell quality from size.
    """
    if name == "raw":
        return PrintedRule()
    if name == "regression":
        return RegressionRule(dist, costs)
    if name == "asng":
        return ASNG(dist, adapt=True, delta=0.1)
    return ASNG(dist, adapt=False, delta=1.0)

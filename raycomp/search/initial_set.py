"""The shared initial set: architectures that are scored once and told to the searches of all budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution, load_distribution
from raycomp.search.moves import fit_to_limit
from raycomp.search.searcher import MAX_DRAWS
from raycomp.search.space import SearchSpace


def shared_initial_set(
    space: SearchSpace, state: dict[str, Any], budgets: Sequence[SearchBudget], n: int, seed: int
) -> list[Architecture]:
    """Return up to n different architectures, fitted to each of the budgets in turn.

    The searches of all N budgets are told all of them: the budgets share these evaluations. Half of them
    start from samples of theta, half from uniform samples. A budget that no architecture meets gets none.

    Args:
        space: The search space.
        state: State of a trained EE-SNG.
        budgets: Budgets of the job.
        n: Number of architectures. Fewer than the budgets: they are fitted to evenly spaced budgets in
            the order of their limits.
        seed: Seed of the random draws.
    """
    if n < len(budgets):
        ordered = sorted(budgets, key=lambda budget: budget.limit / budget.largest)
        budgets = [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, n).round()]
    rng = np.random.default_rng(seed)
    theta, joint = load_distribution(space, state)
    initial_set: list[Architecture] = []
    for i in range(n):
        # The budgets take turns. The architectures of each one come from theta and from pi in turn.
        budget = budgets[i % len(budgets)]
        is_uniform = i // len(budgets) % 2 == 1
        for _ in range(MAX_DRAWS):
            arch = _draw(space, theta, joint, is_uniform, rng)
            fitted = fit_to_limit(arch, space, budget.cost, budget.limit, rng)
            if fitted is not None and fitted not in initial_set:
                initial_set.append(fitted)
                break
    return initial_set


def _draw(
    space: SearchSpace,
    theta: ArchitectureDistribution,
    joint: bool,
    is_uniform: bool,
    rng: np.random.Generator,
) -> Architecture:
    if is_uniform:
        return space.sample_uniform(rng)
    return space.decode(theta.sample(rng), joint)

"""The searchers of HAT, BigNAS and OFA by name."""

from __future__ import annotations

from typing import Any

from raycomp.search.budget import SearchBudget
from raycomp.search.coarse_to_fine import CoarseToFine
from raycomp.search.hat_evolution import HatEvolution
from raycomp.search.predictor_search import PredictorSearch
from raycomp.search.searcher import Searcher
from raycomp.search.space import SearchSpace


def make_published(
    name: str, space: SearchSpace, state: dict[str, Any], budget: SearchBudget, seed: int
) -> Searcher:
    """Return the searcher of another paper.

    Args:
        name: "hat", "coarse_to_fine" (BigNAS) or "predictor" (OFA).
        space: The search space.
        state: State of the sampler of the super-network, which may have settings of the searcher.
        budget: The budget.
        seed: Seed of the random draws.
    """
    if name == "hat":
        return HatEvolution(space, budget, seed, **state.get("evolution", {}))
    if name == "predictor":
        return PredictorSearch(space, budget, seed, **state.get("predictor", {}))
    return CoarseToFine(space, budget, seed)

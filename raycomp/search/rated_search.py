"""Search by rating: many candidates are rated, and only the best-rated are scored."""

from __future__ import annotations

from typing import Any

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.searcher import ThetaSearcher
from raycomp.search.space import SearchSpace
from raycomp.search.surrogate import Surrogate

NUM_CANDIDATES = 300
"""Candidates that the first batch is chosen from."""

NUM_FURTHER_CANDIDATES = 100
"""Candidates that join before each later batch."""

LEAST_USE = 0.95
"""Least cost of a candidate that is rated, as a share of the most expensive candidate's."""


class RatedSearch(ThetaSearcher):
    """Draws hundreds of candidates, rates them by a surrogate, and proposes the best-rated.

    Half of the candidates are samples of theta, half are uniform; all are fitted to the limit. The rating
    comes from `Surrogate`: from theta only at first, then also from all networks that have a score. Each
    network of a batch is the best candidate under its own draw of the effects (Thompson sampling), so
    uncertain choices are tried too. The first network is the best in expectation.
    """

    def __init__(
        self,
        space: SearchSpace,
        theta: ArchitectureDistribution,
        budget: SearchBudget,
        seed: int,
        joint: bool,
    ) -> None:
        """Start without scores; see `ThetaSearcher`."""
        super().__init__(space, theta, budget, seed, joint)
        self._candidates: list[Architecture] = []

    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures within the budget that lack a score."""
        self._add_candidates(NUM_FURTHER_CANDIDATES if self._candidates else NUM_CANDIDATES)
        largest = max((self.budget.cost(arch) for arch in self._candidates), default=0.0)
        candidates = [
            arch
            for arch in self._candidates
            if arch not in self.history.scores and self.budget.cost(arch) >= LEAST_USE * largest
        ]
        if not candidates:
            return []

        surrogate = Surrogate(self.space, self.budget, self.theta, self.joint)
        scores = self.history.scores
        surrogate.fit(list(scores), [loss for _, loss in scores.values()])
        ratings = np.vstack(
            [surrogate.predict(candidates)[None], surrogate.draw(candidates, self.history.rng, n - 1)]
        )

        batch: list[Architecture] = []
        is_taken = np.zeros(len(candidates), bool)
        for losses in ratings[: len(candidates)]:
            index = int(np.where(is_taken, np.inf, losses).argmin())
            is_taken[index] = True
            batch.append(candidates[index])
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return generator, scores and candidates."""
        candidates = [arch.to_json() for arch in self._candidates]
        return {**super().state_dict(), "candidates": candidates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state)
        self._candidates = [Architecture.from_json(text) for text in state["candidates"]]

    def _add_candidates(self, count: int) -> None:
        rng = self.history.rng
        archs = set(self._candidates)
        for i in range(count):
            is_uniform = i % 2 == 1
            arch = self.fit(self.space.sample_uniform(rng) if is_uniform else self.sample())
            if arch is not None and arch not in archs:
                archs.add(arch)
                self._candidates.append(arch)

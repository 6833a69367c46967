"""Search by rating: many candidates are rated, and only the best-rated are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.moves import fit_to_limit
from raycomp.search.searcher import SearchHistory
from raycomp.search.space import SearchSpace
from raycomp.search.surrogate import Surrogate

NUM_CANDIDATES = 300
"""Candidates that the first batch is chosen from."""

NUM_FURTHER_CANDIDATES = 100
"""Candidates that join before each later batch."""

LEAST_USE = 0.95
"""Least cost of a candidate that is rated, as a share of the most expensive candidate's."""


class RatedSearch:
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
        """Start without scores.

        Args:
            space: The search space.
            theta: Trained distribution with all choices open.
            budget: The budget.
            seed: int of the random draws.
            joint: Whether one variable of theta is heads and FFN of a layer together.
        """
        self.space = space
        self.budget = budget
        self.history = SearchHistory(seed)
        self._theta = theta
        self._joint = joint
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

        surrogate = Surrogate(self.space, self.budget, self._theta, self._joint)
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

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Remember scores, which the surrogate is fitted to at the next `ask`."""
        self.history.record(archs, values, losses)

    def state_dict(self) -> dict[str, Any]:
        """Return generator, scores and candidates."""
        candidates = [arch.to_json() for arch in self._candidates]
        return {**self.history.state_dict(), "candidates": candidates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.history.load_state_dict(state)
        self._candidates = [Architecture.from_json(text) for text in state["candidates"]]

    def _add_candidates(self, count: int) -> None:
        rng = self.history.rng
        archs = set(self._candidates)
        for i in range(count):
            if i % 2 == 0:
                sample = self.space.decode(self._theta.sample(rng), self._joint)
            else:
                sample = self.space.sample_uniform(rng)
            arch = fit_to_limit(sample, self.space, self.budget.cost, self.budget.limit, rng)
            if arch is not None and arch not in archs:
                archs.add(arch)
                self._candidates.append(arch)

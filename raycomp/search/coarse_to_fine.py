"""BigNAS' search: a grid of networks with equal layers first, then random mutations of the best one.

refs: J. Yu, P. Jin, H. Liu, G. Bender, P. Kindermans, M. Tan, T. Huang, X. Song, R. Pang, Q. Le. BigNAS:
Scaling Up Neural Architecture Search with Big Single-Stage Models. ECCV 2020.
https://arxiv.org/abs/2003.11142
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.moves import mutate, shrink_to_limit
from raycomp.search.searcher import SearchHistory
from raycomp.search.space import SearchSpace


class CoarseToFine:
    """Scores every network of equal layers within the budget, then mutates the best network.

    Args:
        space: The search space.
        budget: The budget.
        seed: Seed of the random draws.
        mutation_rate: Probability that a mutation draws a choice again.
    """

    def __init__(
        self, space: SearchSpace, budget: SearchBudget, seed: int, mutation_rate: float = 0.2
    ) -> None:
        self.space = space
        self.budget = budget
        self.history = SearchHistory(seed)
        self._rate = mutation_rate
        self._grid = [arch for arch in equal_layers(space) if budget.is_met_by(arch)]

    def ask(self, n: int) -> list[Architecture]:
        """Return n networks of the grid, or mutations of the best network once the grid is scored."""
        waiting = [arch for arch in self._grid if arch not in self.history.scores]
        if waiting:
            return waiting[:n]
        return self.history.draw_new(n, self._draw)

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Remember scores."""
        self.history.record(archs, values, losses)

    def state_dict(self) -> dict[str, Any]:
        """Return generator and scores."""
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.history.load_state_dict(state)

    def _draw(self) -> Architecture | None:
        """Return a mutation of the best network within the budget."""
        scores = self.history.scores
        # Networks of other budgets may have been told, too.
        met = [arch for arch in scores if self.budget.is_met_by(arch)]
        if not met:
            return None
        best = max(met, key=lambda arch: (scores[arch][0], -scores[arch][1]))
        rng = self.history.rng
        child = mutate(best, self.space, self._rate, rng)
        return shrink_to_limit(child, self.space, self.budget.cost, self.budget.limit, rng)


def equal_layers(space: SearchSpace) -> list[Architecture]:
    """Return every network whose layers have equal widths (4 x 3 x 4 = 48 in YOCO-BERT's space)."""
    return [
        Architecture(depth, (heads,) * depth, (ffn,) * depth)
        for depth, heads, ffn in itertools.product(space.depth, space.heads, space.ffn)
    ]

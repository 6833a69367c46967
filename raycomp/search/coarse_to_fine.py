"""BigNAS' search: a grid of networks with equal layers first, then random mutations of the best one.

refs: J. Yu, P. Jin, H. Liu, G. Bender, P. Kindermans, M. Tan, T. Huang, X. Song, R. Pang, Q. Le. BigNAS:
Scaling Up Neural Architecture Search with Big Single-Stage Models. ECCV 2020.
https://arxiv.org/abs/2003.11142
"""

from __future__ import annotations

import itertools

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.moves import mutate
from raycomp.search.searcher import HistorySearcher
from raycomp.search.space import SearchSpace


class CoarseToFine(HistorySearcher):
    """Scores every network of equal layers within the budget, then mutates the best network.

    The grid begins with the most expensive network. A search with fewer evaluations than the grid has
    networks therefore scores those near the limit.

    Args:
        space: The search space.
        budget: The budget.
        seed: Seed of the random draws.
        mutation_rate: Probability that a mutation draws a choice again.
    """

    def __init__(
        self, space: SearchSpace, budget: SearchBudget, seed: int, mutation_rate: float = 0.2
    ) -> None:
        super().__init__(space, budget, seed)
        self._rate = mutation_rate
        grid = [arch for arch in equal_layers(space) if budget.is_met_by(arch)]
        self._grid = sorted(grid, key=budget.cost, reverse=True)

    def ask(self, n: int) -> list[Architecture]:
        """Return n networks of the grid, or mutations of the best network once the grid is scored."""
        waiting = [arch for arch in self._grid if arch not in self.history.scores]
        if waiting:
            return waiting[:n]
        return self.history.draw_new(n, self._draw)

    def _draw(self) -> Architecture | None:
        """Return a mutation of the best network within the budget."""
        scores = self.history.scores
        # Networks of other budgets may have been told, too.
        met = [arch for arch in scores if self.budget.is_met_by(arch)]
        if not met:
            return None
        best = max(met, key=lambda arch: (scores[arch][0], -scores[arch][1]))
        return self.shrink(mutate(best, self.space, self._rate, self.history.rng))


def equal_layers(space: SearchSpace) -> list[Architecture]:
    """Return every network whose layers have equal widths (4 x 3 x 4 = 48 in YOCO-BERT's space)."""
    return [
        Architecture(depth, (heads,) * depth, (ffn,) * depth, table=table)
        for depth, heads, ffn, table in itertools.product(
            space.depth, space.heads, space.ffn, space.tables
        )
    ]

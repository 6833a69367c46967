"""Searchers of the deployment stage: SNG from the trained theta (the paper), random, evolution.

`raycomp.search.rated_search` has a further one. These four fit their proposals to the limit in the same
way: a network that leaves part of the budget unused would lose to one that does not, whoever proposed
it. The searchers of other papers (`raycomp.search.published_searchers`) do not grow their proposals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from raycomp.config.references import is_reference, resolve_reference
from raycomp.config.search import SEARCHERS
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution, load_distribution
from raycomp.search.moves import cross, mutate
from raycomp.search.published_searchers import make_published
from raycomp.search.rated_search import RatedSearch
from raycomp.search.searcher import HistorySearcher, Searcher, ThetaSearcher
from raycomp.search.space import SearchSpace
from raycomp.search.updates import ASNG


class RandomSearch(HistorySearcher):
    """Uniform samples of the space, fitted to the limit like the proposals of the other searchers."""

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures that meet the budget."""
        return self.history.draw_new(n, self._draw)

    def _draw(self) -> Architecture | None:
        return self.fit(self.space.sample_uniform(self.history.rng))


class EvolutionSearch(HistorySearcher):
    """Evolution as in HAT and OFA: half of the children are mutations, half are crossovers.

    Attributes:
        parent_share: Share of the architectures within the budget that become parents, the best ones.
        mutation_rate: Probability that a mutation redraws a variable.
    """

    parent_share = 0.25
    mutation_rate = 0.2

    def ask(self, n: int) -> list[Architecture]:
        """Return n children within the budget; random ones while fewer than two parents exist."""
        scores = self.history.scores
        ranked = sorted(
            (arch for arch in scores if self.budget.is_met_by(arch)),
            key=lambda arch: (-scores[arch][0], scores[arch][1]),
        )
        # A crossover needs two parents.
        count = max(2, math.ceil(self.parent_share * len(ranked)))
        parents = ranked[:count]
        return self.history.draw_new(n, lambda: self._draw_child(parents))

    def _draw_child(self, parents: list[Architecture]) -> Architecture | None:
        rng = self.history.rng
        if len(parents) < 2:
            child = self.space.sample_uniform(rng)
        elif rng.random() < 0.5:
            parent = parents[int(rng.integers(len(parents)))]
            child = mutate(parent, self.space, self.mutation_rate, rng)
        else:
            first, second = rng.choice(len(parents), 2, replace=False)
            child = cross(parents[int(first)], parents[int(second)], self.space, rng)
        return self.fit(child)


class SNGSearch(ThetaSearcher):
    """Stochastic natural gradient on the reward, from the trained theta (YOCO-BERT, Section 3.4).

    Samples of theta are fitted to the limit (shrunk until they meet it, grown while they still do): an
    evaluation of an architecture that cannot be deployed would be wasted. Architectures of the shared
    initial set may exceed the limit: Eq. 7 lowers their reward.
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
        self._rule = ASNG(theta)

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures within the budget, drawn from theta."""
        return self.history.draw_new(n, self._draw)

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Move theta towards the architectures of higher reward (Eq. 5 on Eq. 7)."""
        self.history.record(archs, values, losses)
        if len(archs) < 2:
            return
        rewards = [self.budget.reward(a, v) for a, v in zip(archs, values, strict=True)]  # Eq. 7
        indices = np.stack([self.space.encode(arch, self.joint) for arch in archs])
        self._rule.update(
            self.theta, indices, losses=-np.array(rewards, np.float64), weights=np.ones(len(archs))
        )

    def state_dict(self) -> dict[str, Any]:
        """Return generator, scores, theta and the step size."""
        own = {"dist": self.theta.state_dict(), "rule": self._rule.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state)
        self.theta.load_state_dict(state["dist"])
        self._rule.load_state_dict(state["rule"])

    def _draw(self) -> Architecture | None:
        return self.fit(self.sample())


def make_searcher(
    name: str, space: SearchSpace, state: dict[str, Any], budget: SearchBudget, seed: int
) -> Searcher:
    """Return the searcher of a name.

    Args:
        name: One of `SEARCHERS` in raycomp.config.search, or the reference of a class of the user's,
            which is made with (space, budget, seed).
        space: The search space.
        state: State of a trained EE-SNG, which "rated" and "sng" start from.
        budget: The budget.
        seed: int of the random draws.

    Raises:
        UserError: The name is unknown.
    """
    if name == "random":
        return RandomSearch(space, budget, seed)
    if name == "evolution":
        return EvolutionSearch(space, budget, seed)
    if name in ("rated", "sng"):
        theta, joint = load_distribution(space, state)
        if name == "rated":
            return RatedSearch(space, theta, budget, seed, joint)
        return SNGSearch(space, theta, budget, seed, joint)
    if name in ("hat", "coarse_to_fine", "predictor"):
        return make_published(name, space, state, budget, seed)
    if is_reference(name):
        searcher: Searcher = resolve_reference(name, "search.searchers")(space, budget, seed)
        return searcher
    raise UserError(f"Searcher {name!r} is unknown. Use {', '.join(SEARCHERS)}.")

"""What all searchers of the deployment stage have in common: their interface, and their memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.moves import fit_to_limit, shrink_to_limit
from raycomp.search.space import SearchSpace

MAX_DRAWS = 50
"""Draws per architecture until one is new (or feasible)."""


class Searcher(Protocol):
    """Proposes architectures for one budget and learns from their scores.

    The calls of a search, in order:

        searcher = make_searcher("sng", space, state, budget, seed=0)
        searcher.tell(initial_set, values, losses)
        while evaluations < limit:
            archs = searcher.ask(8)
            searcher.tell(archs, *score(archs))
    """

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures, new ones as far as a few draws find them."""
        ...

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Take the scores of any architectures, proposed by this searcher or not.

        Args:
            archs: The architectures.
            values: Metric of each; larger is better.
            losses: Label loss of each; smaller is better.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state that all later proposals depend on, as JSON-able values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        ...


class SearchHistory:
    """Scores that a searcher was told, and its random generator.

    Attributes:
        scores: Value and loss of each architecture.
        rng: Generator of the searcher's draws.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.scores: dict[Architecture, tuple[float, float]] = {}

    def record(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Add scores; see `Searcher.tell`."""
        for arch, value, loss in zip(archs, values, losses, strict=True):
            self.scores[arch] = (float(value), float(loss))

    def draw_new(self, n: int, draw: Callable[[], Architecture | None]) -> list[Architecture]:
        """Draw n architectures; a draw that is not new is repeated, up to `MAX_DRAWS` times.

        Args:
            n: Number of architectures.
            draw: Draws one architecture; None where it cannot meet the budget.
        """
        batch: list[Architecture] = []
        for _ in range(n):
            arch: Architecture | None = None
            for _ in range(MAX_DRAWS):
                candidate = draw()
                # The last candidate is kept in case that none is new: the space may be used up.
                arch = candidate or arch
                if candidate is not None and candidate not in self.scores and candidate not in batch:
                    break
            if arch is not None:
                batch.append(arch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return generator and scores as JSON-able values."""
        rows = [[arch.to_json(), value, loss] for arch, (value, loss) in self.scores.items()]
        return {"rng": self.rng.bit_generator.state, "told": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.rng.bit_generator.state = state["rng"]
        self.scores = {Architecture.from_json(text): (value, loss) for text, value, loss in state["told"]}


class HistorySearcher(ABC):
    """A searcher that proposes from the scores it was told. A subclass adds `ask`, and state of its own.

    Attributes:
        space: The search space.
        budget: The budget.
        history: Scores and random generator.
    """

    def __init__(self, space: SearchSpace, budget: SearchBudget, seed: int) -> None:
        """Start without scores.

        Args:
            space: The search space.
            budget: The budget.
            seed: Seed of the random draws.
        """
        self.space = space
        self.budget = budget
        self.history = SearchHistory(seed)

    @abstractmethod
    def ask(self, n: int) -> list[Architecture]:
        """Return up to n architectures; see `Searcher.ask`."""

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Remember scores, which later proposals depend on."""
        self.history.record(archs, values, losses)

    def state_dict(self) -> dict[str, Any]:
        """Return generator and scores."""
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.history.load_state_dict(state)

    def fit(self, arch: Architecture) -> Architecture | None:
        """Return an architecture shrunk until it meets the budget, and grown while it still does."""
        return fit_to_limit(arch, self.space, self.budget.cost, self.budget.limit, self.history.rng)

    def shrink(self, arch: Architecture) -> Architecture | None:
        """Return an architecture shrunk until it meets the budget."""
        return shrink_to_limit(arch, self.space, self.budget.cost, self.budget.limit, self.history.rng)


class ThetaSearcher(HistorySearcher):
    """A searcher that draws from the trained distribution. A subclass adds `ask`."""

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
            seed: Seed of the random draws.
            joint: Whether one variable of theta is heads and FFN of a layer together.
        """
        super().__init__(space, budget, seed)
        self.theta = theta
        self.joint = joint

    def sample(self) -> Architecture:
        """Draw an architecture from theta."""
        return self.space.decode(self.theta.sample(self.history.rng), self.joint)

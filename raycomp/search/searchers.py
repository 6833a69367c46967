"""Searchers of the deployment stage: SNG from the trained theta (the paper), random, evolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.moves import CostFunction, fit_to_limit, mutate, shrink_to_limit
from raycomp.search.reward import RewardForm, constrained_reward
from raycomp.search.space import SearchSpace
from raycomp.search.updates import ASNG

MAX_DRAWS = 50


@dataclass(frozen=True)
class SearchBudget:
    """A limit and how a violation is priced.

    Attributes:
        cost: T(m), in the unit of `limit`.
        limit: Omega.
        largest: T(M).
        alpha, form: of Eq. 7.
    """

    cost: CostFunction
    limit: float
    largest: float
    alpha: float = 2.0
    form: RewardForm = "corrected"

    def is_met_by(self, arch: Architecture) -> bool:
        """Return whether an architecture is within the limit."""
        return self.cost(arch) <= self.limit

    def reward(self, arch: Architecture, value: float) -> float:
        """Return Eq. 7."""
        return constrained_reward(value, self.cost(arch), self.limit, self.largest, self.alpha, self.form)


class Searcher(Protocol):
    """Proposes architectures and learns from their scores."""

    def ask(self, n: int) -> list[Architecture]:
        """Return n architectures, new ones as far as they can be found."""
        ...

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Take scores (larger values are better) of any architectures, asked for or not."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the future depends on, JSON-able."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class _Base:
    """What all searchers share: the space, the budget, a generator, and what was told."""

    def __init__(self, space: SearchSpace, budget: SearchBudget, seed: int) -> None:
        self.space, self.budget = space, budget
        self._rng = np.random.default_rng(seed)
        self._told: dict[Architecture, tuple[float, float]] = {}

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Remember scores; see Searcher."""
        for arch, value, loss in zip(archs, values, losses, strict=True):
            self._told[arch] = (float(value), float(loss))

    def state_dict(self) -> dict[str, Any]:
        """Return the generator and all scores."""
        told = [[a.to_json(), v, x] for a, (v, x) in self._told.items()]
        return {"rng": self._rng.bit_generator.state, "told": told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._rng.bit_generator.state = state["rng"]
        self._told = {Architecture.from_json(a): (v, x) for a, v, x in state["told"]}

    def _new(self, n: int, draw: Callable[[], Architecture | None]) -> list[Architecture]:
        """Draw n architectures; one already told or drawn is drawn again, up to TRIES times."""
        found: list[Architecture] = []
        drawn: set[Architecture] = set()
        for _ in range(n):
            arch: Architecture | None = None
            for _ in range(MAX_DRAWS):
                candidate = draw()
                arch = candidate or arch
                if candidate is not None and candidate not in self._told and candidate not in drawn:
                    break
            if arch is not None:
                found.append(arch)
                drawn.add(arch)
        return found


class RandomSearch(_Base):
    """Uniform over the feasible architectures, by rejection, then by repair."""

    def ask(self, n: int) -> list[Architecture]:
        """Return n feasible architectures."""
        return self._new(n, self._draw)

    def _draw(self) -> Architecture | None:
        for _ in range(MAX_DRAWS):
            arch = self.space.sample_uniform(self._rng)
            if self.budget.is_met_by(arch):
                return arch
        return shrink_to_limit(arch, self.space, self.budget.cost, self.budget.limit, self._rng)


class EvolutionSearch(_Base):
    """Parents are the best feasible quarter; half mutations, half crossovers (HAT, OFA)."""

    parents = 0.25
    mutation = 0.2

    def ask(self, n: int) -> list[Architecture]:
        """Return n feasible children, or random architectures while nothing feasible is told."""
        scored = sorted(
            (a for a in self._told if self.budget.is_met_by(a)),
            key=lambda a: (-self._told[a][0], self._told[a][1]),
        )
        count = max(2, math.ceil(self.parents * len(scored)))
        pool = scored[:count]
        return self._new(n, lambda: self._child(pool))

    def _child(self, pool: list[Architecture]) -> Architecture | None:
        rng = self._rng
        if len(pool) < 2:
            child = self.space.sample_uniform(rng)
        elif rng.random() < 0.5:
            child = mutate(pool[int(rng.integers(len(pool)))], self.space, self.mutation, rng)
        else:
            a, b = (pool[int(i)] for i in rng.choice(len(pool), 2, replace=False))
            child = self._cross(a, b)
        return fit_to_limit(child, self.space, self.budget.cost, self.budget.limit, rng)

    def _cross(self, a: Architecture, b: Architecture) -> Architecture:
        """Take each choice from either parent; a layer that one lacks comes from the other."""
        depth = (a, b)[int(self._rng.integers(2))].depth
        heads, ffn = [], []
        for i in range(depth):
            sources = [p for p in (a, b) if i < p.depth]
            heads.append(sources[int(self._rng.integers(len(sources)))].heads[i])
            ffn.append(sources[int(self._rng.integers(len(sources)))].ffn[i])
        return Architecture(depth, tuple(heads), tuple(ffn))


class SNGSearch(_Base):
    """Section 3.4: stochastic natural gradient on the reward, from the trained theta.

    Samples of theta are fitted to the limit (shrunk until they meet it, grown while they still do),
    so that no evaluation goes to an architecture that cannot be deployed; violators that are told
    (the common opening) are priced by Eq. 7.
    """

    def __init__(
        self,
        space: SearchSpace,
        theta: ArchitectureDistribution,
        budget: SearchBudget,
        seed: int,
        joint: bool,
    ) -> None:
        super().__init__(space, budget, seed)
        self._dist, self._joint = theta, joint
        self._rule = ASNG(theta)

    def ask(self, n: int) -> list[Architecture]:
        """Return n feasible architectures drawn from theta."""
        return self._new(n, self._draw)

    def _draw(self) -> Architecture | None:
        arch = self.space.decode(self._dist.sample(self._rng), self._joint)
        return fit_to_limit(arch, self.space, self.budget.cost, self.budget.limit, self._rng)

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        """Move theta towards the architectures of higher reward (Eq. 5 on Eq. 7)."""
        super().tell(archs, values, losses)
        if len(archs) < 2:
            return
        rewards = [self.budget.reward(a, v) for a, v in zip(archs, values, strict=True)]
        indices = np.stack([self.space.encode(a, self._joint) for a in archs])
        ones = np.ones(len(archs))
        self._rule.update(self._dist, indices, -np.array(rewards, np.float64), ones)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator, all scores, theta and the step size."""
        own = {"dist": self._dist.state_dict(), "rule": self._rule.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._dist.load_state_dict(state["dist"])
        self._rule.load_state_dict(state["rule"])


def load_distribution(space: SearchSpace, state: dict[str, Any]) -> tuple[ArchitectureDistribution, bool]:
    """Return the trained distribution of an EE-SNG state, all choices open, and its joint flag."""
    joint = bool(state["joint"])
    dist = ArchitectureDistribution(space.variables(joint))
    dist.load_state_dict(state["dist"])
    # A phase of 0 steps may have left choices closed; deployment may use them all.
    dist.set_open([np.ones(len(v.choices), bool) for v in dist.variables])
    dist.apply_lower_bounds()
    return dist, joint


def make_searcher(
    name: str, space: SearchSpace, state: dict[str, Any], budget: SearchBudget, seed: int
) -> Searcher:
    """Return the searcher "sng", "random" or "evolution"; `state` is a trained EE-SNG's."""
    if name == "random":
        return RandomSearch(space, budget, seed)
    if name == "evolution":
        return EvolutionSearch(space, budget, seed)
    if name == "sng":
        theta, joint = load_distribution(space, state)
        return SNGSearch(space, theta, budget, seed, joint)
    raise UserError(f"searcher {name!r} is unknown; allowed: sng, random, evolution")


def shared_initial_set(
    space: SearchSpace, state: dict[str, Any], budgets: Sequence[SearchBudget], n: int, seed: int
) -> list[Architecture]:
    """Return up to n architectures fitted to each of the job's budgets in turn.

    Every budget is told all of them, so that N budgets share these evaluations. Half of them are
    grown from samples of theta, half from uniform ones. A budget that nothing meets gets none.
    """
    rng = np.random.default_rng(seed)
    theta, joint = load_distribution(space, state)
    found: dict[Architecture, None] = {}
    for i in range(n):
        budget = budgets[i % len(budgets)]
        for _ in range(MAX_DRAWS):
            uniform = i // len(budgets) % 2 == 1
            arch = space.sample_uniform(rng) if uniform else space.decode(theta.sample(rng), joint)
            fitted = fit_to_limit(arch, space, budget.cost, budget.limit, rng)
            if fitted is not None and fitted not in found:
                found[fitted] = None
                break
    return list(found)


def best_index(
    archs: Sequence[Architecture],
    values: Sequence[float],
    losses: Sequence[float],
    budget: SearchBudget,
) -> int | None:
    """Return the index of the best feasible architecture, or None: value, then loss, then cost."""
    feasible = [i for i, a in enumerate(archs) if budget.is_met_by(a)]
    if not feasible:
        return None
    return max(feasible, key=lambda i: (values[i], -losses[i], -budget.cost(archs[i])))


def cheapest_architecture(space: SearchSpace, cost: CostFunction) -> tuple[Architecture, float]:
    """Return the cheapest architecture and its cost; every cost grows with every dimension."""
    smallest = space.smallest()
    return smallest, cost(smallest)

"""The searchers and update rules learn: each assertion also rejects the mechanism off or reversed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.reward import RewardForm
from raycomp.search.searchers import EvolutionSearch, Searcher, SNGSearch
from raycomp.search.space import SearchSpace, Variable
from raycomp.search.updates import ASNG, fisher_root, natural_gradient

SPACE = SearchSpace(4, (2, 3, 4), (1, 2, 4), (16, 32, 64))
ROUNDS = 12
BATCH = 8


def cost(arch: Architecture) -> float:
    return float(sum(arch.heads) * 16 + sum(arch.ffn))


def quality(arch: Architecture) -> float:
    """Heads of early layers and neurons of late ones are worth more."""
    heads = sum(h / (1 + i) for i, h in enumerate(arch.heads))
    return heads + sum(k * (1 + i) for i, k in enumerate(arch.ffn)) / 100


def budget(share: float = 0.5, form: RewardForm = "corrected") -> SearchBudget:
    largest = cost(SPACE.largest())
    return SearchBudget(cost, share * largest, largest, form=form)


def sng(seed: int) -> SNGSearch:
    """A search whose theta is uniform: all that it learns comes from `tell`."""
    return SNGSearch(SPACE, ArchitectureDistribution(SPACE.variables()), budget(), seed, joint=False)


class Deaf:
    """Mutant: `tell` only records which architectures are known."""

    def __init__(self, search: Any) -> None:
        self.search = search

    def ask(self, n: int) -> list[Architecture]:
        return list(self.search.ask(n))

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        self.search.history.record(archs, [0.0] * len(archs), [0.0] * len(archs))


class Reversed(Deaf):
    """Mutant: the sign of every score is reversed."""

    def tell(
        self, archs: Sequence[Architecture], values: Sequence[float], losses: Sequence[float]
    ) -> None:
        self.search.tell(archs, [-value for value in values], [-loss for loss in losses])


def gains(make: Callable[[int], Any], seeds: int = 12) -> np.ndarray:
    """Return by how much the last proposals of a search are better than its first, for each seed.

    All proposals are fitted to the same limit, so larger networks cannot be the reason.
    """
    found = []
    for seed in range(seeds):
        search = make(seed)
        values: list[float] = []
        for _ in range(ROUNDS):
            batch = search.ask(BATCH)
            scores = [quality(arch) for arch in batch]
            search.tell(batch, scores, [-score for score in scores])
            values += scores
        found.append(np.mean(values[-3 * BATCH :]) - np.mean(values[:BATCH]))
    return np.array(found)


def does_learn(values: np.ndarray) -> bool:
    """Return whether a mean gain is above 0 by more than three standard errors."""
    return bool(values.mean() > 3 * values.std(ddof=1) / math.sqrt(len(values)))


def evolution(seed: int) -> EvolutionSearch:
    return EvolutionSearch(SPACE, budget(), seed)


@pytest.mark.parametrize("make", [sng, evolution])
def test_a_searcher_learns_and_its_mutants_do_not(make: Callable[[int], Searcher]) -> None:
    assert does_learn(gains(make))
    assert not does_learn(gains(lambda seed: Deaf(make(seed))))
    assert not does_learn(gains(lambda seed: Reversed(make(seed))))


def violation_change(form: RewardForm, *, deaf: bool = False) -> float:
    """Return how the probability of the largest depth changes when networks above the limit score best.

    Half of the networks have the largest depth and exceed the limit, half have the smallest and meet it.
    The scores of the former are higher by a tenth.
    """
    limit = budget(0.5, form)
    theta = ArchitectureDistribution(SPACE.variables())
    search: Any = SNGSearch(SPACE, theta, limit, 0, joint=False)
    large, small = SPACE.largest(), Architecture(2, (2, 2), (32, 32))
    assert not limit.is_met_by(large)
    assert limit.is_met_by(small)
    before = theta.theta[0, 2]
    told = Deaf(search) if deaf else search
    for _ in range(5):
        told.tell([large, small] * 4, [0.9, 0.8] * 4, [0.1, 0.2] * 4)
    return float(theta.theta[0, 2] - before)


def test_equation_7_turns_a_search_away_from_violators() -> None:
    """The corrected form does, the printed form and a search that is told nothing do not."""
    assert violation_change("corrected") < -0.1
    assert violation_change("printed") > 0.1
    assert violation_change("corrected", deaf=True) == 0


# ASNG's adaptation.

TWO = (Variable("depth", (1, 2), None), Variable("heads.0", (1, 2, 3), 0))
DELTA, ALPHA = 0.1, 1.5


def one_step(rule: ASNG, dist: ArchitectureDistribution) -> None:
    rule.update(dist, np.array([[0, 0], [1, 1]]), np.array([1.0, 2.0]), np.ones(2))


def test_an_asng_step_by_hand() -> None:
    """s, gamma and Delta of two steps (ASNG, Alg. 1), and the length of the second step of theta.

    With n = (2 - 1) + (3 - 1) = 3 free parameters and Delta = 1 at first, beta = .1 / sqrt(3). s and
    gamma start at 0, so after one step

        s = sqrt(beta (2 - beta)) d         |s|^2 = beta (2 - beta) = gamma
        Delta = exp(beta gamma (1 - 1 / alpha))

    where d is the step's direction, of Fisher norm 1.
    """
    dist = ArchitectureDistribution(TWO)
    rule = ASNG(dist, delta=DELTA, alpha=ALPHA)
    gradient = natural_gradient(dist, np.array([[0, 0], [1, 1]]), np.array([1.0, -1.0]))
    root = fisher_root(dist.theta, gradient, dist.open)
    one_step(rule, dist)

    beta = DELTA / math.sqrt(3)
    gamma = beta * (2 - beta)
    s = math.sqrt(gamma) * root / math.sqrt(2.5)  # the norm of `test_ranked_rule_by_hand`
    big_delta = math.exp(beta * gamma * (1 - 1 / ALPHA))
    assert rule.gamma == pytest.approx(gamma)
    assert rule.s == pytest.approx(s)
    assert rule.big_delta == pytest.approx(big_delta)

    # The second step: delta, beta and the averages follow from Delta.
    before = dist.theta.copy()
    gradient = natural_gradient(dist, np.array([[0, 0], [1, 1]]), np.array([1.0, -1.0]))
    root = fisher_root(before, gradient, dist.open)
    norm = math.sqrt(float((root**2).sum()))
    one_step(rule, dist)
    delta = DELTA / big_delta
    assert dist.theta == pytest.approx(before + delta * gradient / norm)

    beta = delta / math.sqrt(3)
    gamma = (1 - beta) ** 2 * gamma + beta * (2 - beta)
    s = (1 - beta) * s + math.sqrt(beta * (2 - beta)) * root / norm
    big_delta *= math.exp(beta * (gamma - float((s**2).sum()) / ALPHA))
    assert rule.gamma == pytest.approx(gamma)
    assert rule.s == pytest.approx(s)
    assert rule.big_delta == pytest.approx(big_delta)


def step_length(has_signal: bool, seed: int, **settings: Any) -> float:
    """Return the length of the 300th step relative to the first, with or without signal."""
    dist = ArchitectureDistribution([Variable(f"v{i}", (1, 2, 3), 0) for i in range(6)])
    rule = ASNG(dist, delta=DELTA, **settings)
    rng = np.random.default_rng(seed)
    for _ in range(300):
        samples = dist.sample(rng, 4)
        losses = rng.normal(size=4)
        if has_signal:
            losses = 0.1 * losses + (samples != 2).sum(1)
        rule.update(dist, samples, losses, np.ones(4))
        if has_signal and dist.theta[:, 2].mean() > 0.6:
            break
    return 1 / rule.big_delta


MUTANTS: dict[str, dict[str, Any]] = {"does not adapt": {"adapt": False}, "alpha 15": {"alpha": 15.0}}


def adapts(**settings: Any) -> bool:
    """Return whether steps shrink on noise and grow on signal."""
    noise = np.mean([step_length(False, seed, **settings) for seed in range(3)])
    signal = np.mean([step_length(True, seed, **settings) for seed in range(3)])
    return bool(noise < 0.9 and signal > 1.1)


def test_asng_shrinks_its_step_on_noise_and_lengthens_it_on_signal() -> None:
    assert adapts()
    for name, settings in MUTANTS.items():
        assert not adapts(**settings), name

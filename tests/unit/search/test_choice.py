"""Groups of budgets, the surrogate, and the choice among scored networks."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from raycomp.config.budget import BudgetSettings
from raycomp.encoder.architecture import Architecture
from raycomp.search.budget import SearchBudget
from raycomp.search.budget_groups import GROUP_WIDTH, group_budgets
from raycomp.search.choice import rank_networks
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.moves import fit_to_limit
from raycomp.search.rated_search import RatedSearch
from raycomp.search.space import SearchSpace
from raycomp.search.surrogate import Surrogate

SPACE = SearchSpace(4, (2, 3, 4), (1, 2, 4), (16, 32, 64))


def cost(arch: Architecture) -> float:
    return float(sum(arch.heads) * 16 + sum(arch.ffn))


LARGEST = cost(SPACE.largest())
BUDGET = SearchBudget(cost, 0.5 * LARGEST, LARGEST)


def true_loss(arch: Architecture) -> float:
    """Heads of early layers lower the loss most; size lowers it too."""
    return 1.0 - sum(h / (1 + i) ** 2 for i, h in enumerate(arch.heads)) / 20 - cost(arch) / LARGEST / 5


def name_of(limit: float) -> str:
    return f"b{limit:g}".replace(".", "_")


def groups_of(limits: list[float], least: float = 10.0, full: float = 1000.0) -> list[tuple[str, ...]]:
    budgets = [BudgetSettings(name=name_of(limit), params=limit) for limit in limits]
    found = group_budgets(budgets, lambda b: b.resolve(1.0), lambda kind: least, lambda kind: full)
    return [tuple(budget.name for budget in group.members) for group in found]


def test_near_limits_are_one_group_and_the_lowest_leads() -> None:
    assert groups_of([200, 102, 100, 103]) == [("b200",), ("b100", "b102"), ("b103",)]


def test_limits_above_the_largest_network_are_one_group() -> None:
    assert groups_of([1000, 3000, 2000]) == [("b1000", "b3000", "b2000")]


def test_a_budget_that_no_network_meets_joins_no_group_of_those_that_one_does() -> None:
    assert groups_of([9.9, 10.0, 10.1]) == [("b9_9",), ("b10", "b10_1")]


def test_kinds_are_never_mixed() -> None:
    budgets = [BudgetSettings(name="a", params=100), BudgetSettings(name="b", flops=100)]
    found = group_budgets(budgets, lambda b: b.resolve(1.0), lambda kind: 1.0, lambda kind: 1000.0)
    assert len(found) == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_budgets_are_few_groups_whatever_their_order(seed: int) -> None:
    limits = [100 + 0.9 * i for i in range(1001)]
    random.Random(seed).shuffle(limits)
    groups = groups_of(limits)
    assert len(groups) <= 94
    assert sorted(name for group in groups for name in group) == sorted(name_of(x) for x in limits)
    for group in groups:
        values = [float(name[1:].replace("_", ".")) for name in group]
        assert values[-1] <= values[0] * (1 + GROUP_WIDTH)


def scored(count: int, noise: float, seed: int) -> tuple[list[Architecture], list[float]]:
    rng = np.random.default_rng(seed)
    archs: list[Architecture] = []
    while len(archs) < count:
        arch = fit_to_limit(SPACE.sample_uniform(rng), SPACE, cost, BUDGET.limit, rng)
        if arch is not None and arch not in archs:
            archs.append(arch)
    return archs, [true_loss(arch) + noise * rng.normal() for arch in archs]


def test_the_surrogate_predicts_networks_without_a_score() -> None:
    archs, losses = scored(60, 0.01, 0)
    surrogate = Surrogate(SPACE, BUDGET)
    surrogate.fit(archs[:40], losses[:40])
    predicted = surrogate.predict(archs[40:])
    assert np.corrcoef(predicted, [true_loss(arch) for arch in archs[40:]])[0, 1] > 0.8


def test_the_surrogate_rates_by_theta_before_it_has_scores() -> None:
    theta = ArchitectureDistribution(SPACE.variables())
    theta.theta[1] = [0.1, 0.2, 0.7]
    surrogate = Surrogate(SPACE, BUDGET, theta)
    few, many = Architecture(2, (1, 1), (16, 16)), Architecture(2, (4, 1), (16, 16))
    assert surrogate.predict([many])[0] < surrogate.predict([few])[0]


def mean_regret(smoothing: float, seeds: int = 20) -> float:
    """Return how much worse than the best the chosen network is, with scores of large noise."""
    regrets = []
    for seed in range(seeds):
        archs, losses = scored(40, 0.03, seed)
        surrogate = Surrogate(SPACE, BUDGET)
        surrogate.fit(archs, losses)
        ranked = rank_networks(
            archs, [-loss for loss in losses], losses, BUDGET, surrogate, 0.0, smoothing
        )
        truth = [true_loss(arch) for arch in archs]
        regrets.append(truth[ranked[0]] - min(truth))
    return float(np.mean(regrets))


def test_a_smoothed_choice_is_better_than_the_luckiest() -> None:
    assert mean_regret(1.0) < 0.6 * mean_regret(0.0)
    assert mean_regret(0.5) < mean_regret(0.0)


def test_a_network_that_leaves_the_limit_unused_comes_last() -> None:
    used, unused = Architecture(4, (2, 2, 2, 2), (32, 32, 32, 32)), SPACE.smallest()
    assert BUDGET.is_met_by(used)
    assert cost(used) >= 0.95 * BUDGET.limit
    ranked = rank_networks([unused, used], [0.9, 0.8], [0.1, 0.2], BUDGET, None, 0.95, 0.0)
    assert ranked == [1, 0]
    assert rank_networks([unused, used], [0.9, 0.8], [0.1, 0.2], BUDGET, None, 0.0, 0.0) == [0, 1]
    assert rank_networks([SPACE.largest()], [1.0], [0.0], BUDGET, None, 0.95, 0.0) == []


def mean_asked_loss(sign: float, seed: int) -> float:
    """Return the mean true loss of the last proposals; the searcher is told `sign` times the losses."""
    theta = ArchitectureDistribution(SPACE.variables())
    search = RatedSearch(SPACE, theta, BUDGET, seed, joint=False)
    batch: list[Architecture] = []
    for _ in range(4):
        batch = search.ask(8)
        losses = [sign * true_loss(arch) for arch in batch]
        search.tell(batch, [-loss for loss in losses], losses)
    return float(np.mean([true_loss(arch) for arch in batch]))


def test_rated_search_learns_and_mutants_that_do_not_are_told_apart() -> None:
    learning, deaf, reversed_ = (
        np.mean([mean_asked_loss(sign, seed) for seed in range(4)]) for sign in (1.0, 0.0, -1.0)
    )
    assert learning < deaf - 0.01
    assert deaf < reversed_ - 0.01


def test_rated_search_continues_from_its_state() -> None:
    theta = ArchitectureDistribution(SPACE.variables())
    one = RatedSearch(SPACE, theta, BUDGET, 5, joint=False)
    batch = one.ask(12)
    one.tell(batch, [0.0] * 12, [true_loss(arch) for arch in batch])
    two = RatedSearch(SPACE, theta, BUDGET, 99, joint=False)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert one.ask(12) == two.ask(12)


def test_without_a_prediction_the_score_decides_or_the_loss() -> None:
    """The luckiest score has a large loss; the smallest loss has a lower score."""
    lucky, sure = SPACE.smallest(), fit(SPACE)
    arguments = ([lucky, sure], [0.82, 0.80], [0.60, 0.50], BUDGET, None, 0.0, 0.0)
    assert rank_networks(*arguments) == rank_networks(*arguments, "score") == [0, 1]
    assert rank_networks(*arguments, "loss") == [1, 0]
    # Equal losses: the score decides.
    assert rank_networks([lucky, sure], [0.8, 0.9], [0.5, 0.5], BUDGET, None, 0.0, 0.0, "loss") == [1, 0]


def fit(space: SearchSpace) -> Architecture:
    """Return a network within the budget that is not the smallest."""
    rng = np.random.default_rng(0)
    arch = fit_to_limit(space.largest(), space, cost, BUDGET.limit, rng)
    assert arch is not None
    return arch

"""Update rules: by hand, to a known optimum, and on pure noise."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace, Variable
from raycomp.search.update_rules import make_update_rule
from raycomp.search.updates import (
    ASNG,
    PrintedRule,
    fisher_root,
    natural_gradient,
    ranked_utilities,
)

TWO = (Variable("depth", (1, 2), None), Variable("heads.0", (1, 2, 3), 0))
ONES = np.ones(2)


def test_natural_gradient_by_hand() -> None:
    """Mean of u (U(m) - theta); a variable at -1 gets nothing."""
    dist = ArchitectureDistribution(TWO)
    found = natural_gradient(dist, np.array([[0, 2], [1, -1]]), np.array([1.0, -1.0]))
    # depth: (1*((1,0)-(.5,.5)) - 1*((0,1)-(.5,.5))) / 2 = (.5, -.5)
    assert found[0] == pytest.approx([0.5, -0.5, 0.0])  # rows are as long as the longest variable
    # heads: 1*((0,0,1)-(1/3,1/3,1/3)) / 2
    assert found[1] == pytest.approx([-1 / 6, -1 / 6, 1 / 3])


def test_utilities_by_hand() -> None:
    assert ranked_utilities(np.array([2.0, 1.0])).tolist() == [-1.0, 1.0]
    assert ranked_utilities(np.array([1.0, 1.0])).tolist() == [0.0, 0.0]
    assert ranked_utilities(np.array([3.0, 1.0, 2.0, 4.0])).tolist() == [0.0, 1.0, 0.0, -1.0]
    assert ranked_utilities(np.array([1.0, 1.0, 2.0, 3.0])).tolist() == [0.5, 0.5, 0.0, -1.0]
    assert ranked_utilities(np.array([np.nan, 1.0])).tolist() == [-1.0, 1.0]


def test_raw_rule_by_hand() -> None:
    """Eq. 5 as printed: theta - rate * mean(loss (U - theta))."""
    dist = ArchitectureDistribution((Variable("depth", (1, 2), None),))
    PrintedRule(rate=0.1).update(dist, np.array([[0], [1]]), np.array([1.0, 3.0]), ONES)
    # grad = (1*(.5,-.5) + 3*(-.5,.5)) / 2 = (-.5, .5); theta = (.5+.05, .5-.05)
    assert dist.theta[0] == pytest.approx([0.55, 0.45])


def test_ranked_rule_by_hand() -> None:
    """One step of length 1 in the Fisher norm, then the lower bound."""
    dist = ArchitectureDistribution(TWO)
    ASNG(dist, adapt=False, delta=0.1).update(
        dist, np.array([[0, 0], [1, 1]]), np.array([1.0, 2.0]), ONES
    )
    # g = (.5,-.5) and (.5,-.5,0); Fisher norm^2 = sum g^2/theta = 1 + 1.5.
    step = 0.1 / math.sqrt(2.5)
    assert dist.theta[0] == pytest.approx([0.5 + 0.5 * step, 0.5 - 0.5 * step, 0.0])
    assert dist.theta[1] == pytest.approx([1 / 3 + 0.5 * step, 1 / 3 - 0.5 * step, 1 / 3])


@pytest.mark.parametrize("seed", range(5))
def test_fisher_root_has_the_fisher_norm(seed: int) -> None:
    """|s|^2 = sum g^2 / theta, for gradients that sum to zero."""
    rng = np.random.default_rng(seed)
    theta = rng.dirichlet(np.ones(5))
    grad = rng.normal(size=5)
    grad -= grad.mean()
    s = fisher_root(theta[None], grad[None], np.ones((1, 5), bool))
    assert (s**2).sum() == pytest.approx((grad**2 / theta).sum(), rel=1e-9)


def test_lower_bounds_are_those_of_the_released_code() -> None:
    """theta_min = 1 / (13 (C-1)): depth .0256, joint layers .0070."""
    paper = SearchSpace(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072))
    dist = ArchitectureDistribution(paper.variables(joint=True))
    assert dist.lower_bounds() == pytest.approx([1 / 39] + [1 / 143] * 12)
    dist.theta[0, :4] = [1.0, 0, 0, 0]
    dist.apply_lower_bounds()
    assert dist.theta[0].sum() == pytest.approx(1)
    assert dist.theta[0, :4].min() == pytest.approx(1 / 39)
    assert not dist.theta[0, 4:].any()


def obvious(p: np.ndarray, u: float) -> int:
    """The first choice whose cumulated probability is above u, one variable and one draw at a time."""
    index = int(np.searchsorted(np.cumsum(p), u * p.sum(), side="right"))
    return index if index < len(p) and p[index] > 0 else int(np.flatnonzero(p > 0)[-1])


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
def test_many_draws_at_once_are_so_many_draws_in_turn(joint: bool, uniform: bool) -> None:
    """Also where choices are closed, and of a generator that goes on afterwards."""
    space = SearchSpace(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072))
    dist, rng = ArchitectureDistribution(space.variables(joint)), np.random.default_rng(0)
    for round_ in range(20):
        masks = [rng.random(len(v.choices)) < 0.6 for v in dist.variables]
        for mask in masks:
            mask[rng.integers(len(mask))] = True
        dist.set_open(masks)
        for row, mask in zip(dist.theta, masks, strict=True):
            drawn = rng.dirichlet(np.ones(len(mask))) * mask + mask * 1e-9
            row[: len(mask)] = drawn / drawn.sum()
        one, two, three = (np.random.default_rng(round_) for _ in range(3))
        ps = [o / o.sum() for o in dist.open] if uniform else dist.theta
        draw = dist.sample_uniform if uniform else dist.sample
        expected = [
            [obvious(p, u) for p, u in zip(ps, one.random(len(ps)), strict=True)] for _ in range(16)
        ]
        assert draw(two, 16).tolist() == expected
        assert [draw(three).tolist() for _ in range(16)] == expected
        assert one.random() == two.random() == three.random()


class Fixed:
    """A generator whose every draw is one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value)


@pytest.mark.parametrize("value", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval_draw_open_choices(value: float) -> None:
    dist = ArchitectureDistribution(TWO)
    for theta in ([0.0, 1.0, 0.0], [0.1, 0.2, 0.7], [0.7, 0.3 - 1e-17, 0.0], [1 / 3, 1 / 3, 1 / 3]):
        dist.theta[1] = theta
        rng: Any = Fixed(value)
        assert dist.sample(rng)[1] == obvious(dist.theta[1], value)
        assert dist.theta[1][dist.sample(rng)[1]] > 0


def run(rule_name: str, updates: int, seed: int, noise: bool) -> tuple[ArchitectureDistribution, float]:
    space = SearchSpace(4, (2, 3, 4), (1, 2, 4), (16, 32, 64))
    dist = ArchitectureDistribution(space.variables())
    rule = make_update_rule(rule_name, dist)
    rng = np.random.default_rng(seed)
    best = np.array([1, 2, 0, 1, 1, 0, 2, 2, 1])
    layer = (np.arange(len(best)) - 1) // 2  # of each variable; that of the depth is below 0
    runs = layer < np.array(space.depth)[:, None]
    for _ in range(updates):
        rows = dist.sample(rng, 2)
        kept = runs[rows[:, 0]]
        indices = np.where(kept, rows, -1)
        losses = ((indices != best) & kept).sum(1) + 0.5 * (indices[:, 0] != best[0])
        values = rng.normal(size=2) if noise else losses + 0.1 * rng.normal(size=2)
        rule.update(dist, indices, values.astype(np.float64), ONES)
    reach = best[:7]  # depth 3: the variables of layer 3 say nothing
    return dist, float((dist.mode()[:7] == reach).mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rule", "updates"), [("sng", 400), ("asng", 2000), ("raw", 6000)])
def test_it_converges_to_a_known_optimum(rule: str, updates: int, seed: int) -> None:
    _, hit = run(rule, updates, seed, noise=False)
    assert hit >= (6 / 7 if rule != "asng" else 1.0)


def test_asng_does_not_drift_on_pure_noise_where_sng_does() -> None:
    """Over 10 seeds: after 100 updates ASNG keeps its entropy, SNG loses a third of it."""
    start = ArchitectureDistribution(
        SearchSpace(4, (2, 3, 4), (1, 2, 4), (16, 32, 64)).variables()
    ).entropy()
    asng = np.array([run("asng", 100, s, noise=True)[0].entropy() / start for s in range(10)])
    sng = np.array([run("sng", 100, s, noise=True)[0].entropy() / start for s in range(10)])
    error = asng.std(ddof=1) / math.sqrt(len(asng))
    assert asng.mean() - 3 * error > 0.85
    assert sng.mean() < 0.67


def test_state_round_trips_bit_for_bit() -> None:
    dist, _ = run("asng", 50, 3, noise=False)
    rule = ASNG(dist)
    rng = np.random.default_rng(0)
    rule.update(dist, np.stack([dist.sample(rng) for _ in range(2)]), np.array([1.0, 2.0]), ONES)
    text = json.dumps([dist.state_dict(), rule.state_dict()])
    again = ArchitectureDistribution(dist.variables)
    rule_again = ASNG(again)
    state = json.loads(text)
    again.load_state_dict(state[0])
    rule_again.load_state_dict(state[1])
    for _ in range(20):
        rows = np.stack([dist.sample(rng) for _ in range(2)])
        for d, r in ((dist, rule), (again, rule_again)):
            r.update(d, rows, np.array([0.3, 0.2]), ONES)
    assert dist.theta.tobytes() == again.theta.tobytes()
    assert rule.big_delta == rule_again.big_delta


def test_not_finite_losses_never_reach_theta() -> None:
    for name in ("raw", "sng", "asng", "regression"):
        dist = ArchitectureDistribution(TWO)
        rule = make_update_rule(name, dist)
        rule.update(dist, np.array([[0, 0], [1, 1]]), np.array([np.inf, np.nan]), ONES)
        rule.update(dist, np.array([[0, 0], [1, 1]]), np.array([np.inf, 1.0]), ONES)
        assert np.isfinite(dist.theta).all()


def test_opening_gives_a_new_choice_its_share() -> None:
    dist = ArchitectureDistribution((Variable("heads.0", (1, 2, 3), 0),))
    dist.set_open([np.array([False, True, True])])
    dist.theta[0] = [0.0, 0.2, 0.8]
    dist.set_open([np.array([True, True, True])])
    assert dist.theta[0] == pytest.approx([1 / 3, 0.2 * 2 / 3, 0.8 * 2 / 3])
    assert dist.max_entropy() == pytest.approx(math.log(3))

"""The linear model of losses, and the update rule that sets theta from it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.effects import PairedRegression, choice_regressors
from raycomp.search.regression_rule import RegressionRule
from raycomp.search.space import SearchSpace

SPACE = SearchSpace(3, (2, 3), (1, 2, 4), (16, 32, 64))
COSTS = SPACE.layer_sums(lambda heads, ffn: heads * 16 + ffn)


def draw_pairs(count: int, noise: float, seed: int, *, effect: float = 1.0, slope: float = 0.0):
    """Yield pairs of choice indices and their losses: heads of 2 in the first layer are good."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rows = np.stack([SPACE.encode(SPACE.sample_uniform(rng)) for _ in range(2)])
        losses = -effect * (rows[:, 1] == 1) - slope * COSTS(rows) + rng.normal(size=2) * noise
        # The batch adds a constant that both share.
        yield rows, losses + 10 * rng.normal()


def fitted(count: int, noise: float, seed: int, **landscape: float) -> np.ndarray:
    dist = ArchitectureDistribution(SPACE.variables())
    regression = PairedRegression(dist.theta.size)
    for rows, losses in draw_pairs(count, noise, seed, **landscape):
        regression.add(choice_regressors(rows, dist.open), COSTS(rows), losses)
    return regression.fit().mean.reshape(dist.theta.shape)


def test_a_known_effect_is_recovered_whatever_the_batch_adds() -> None:
    effects = fitted(400, 0.1, 0)
    heads = effects[1]
    assert heads[1] - (heads[0] + heads[2]) / 2 == pytest.approx(-1.0, abs=0.1)
    others = np.delete(effects, 1, axis=0)
    assert np.abs(others).max() < 0.15


def test_cost_is_not_taken_for_quality() -> None:
    with_slope = fitted(400, 0.1, 1, slope=0.05)
    without = fitted(400, 0.1, 1)
    assert np.abs(with_slope - without).max() < 0.1


@pytest.mark.parametrize("seed", range(8))
def test_noise_has_no_effects_or_tiny_ones(seed: int) -> None:
    assert np.abs(fitted(300, 1.0, seed, effect=0.0)).max() < 0.25


def test_regressors_of_a_sample_are_centred_and_absent_layers_are_zero() -> None:
    dist = ArchitectureDistribution(SPACE.variables())
    row = np.array([[0, 2, 0, 1, 1, -1, -1]])
    regressors = choice_regressors(row, dist.open).reshape(dist.theta.shape)
    assert regressors.sum(1) == pytest.approx(np.zeros(7))
    assert regressors[1] == pytest.approx([-1 / 3, -1 / 3, 2 / 3])
    assert not regressors[5:].any()


def run_rule(noise: float, effect: float, seed: int, steps: int = 400) -> tuple[RegressionRule, float]:
    dist = ArchitectureDistribution(SPACE.variables())
    rule = RegressionRule(dist, COSTS)
    for rows, losses in draw_pairs(steps, noise, seed, effect=effect):
        rule.update(dist, rows, losses, np.zeros(2))
    run_rule.theta = dist.theta  # type: ignore[attr-defined]
    return rule, dist.entropy() / dist.max_entropy()


def test_noise_leaves_the_controller_at_exploitation_and_a_signal_moves_it() -> None:
    on_noise = [run_rule(1.0, 0.0, seed)[1] for seed in range(8)]
    on_signal = run_rule(0.5, 1.0, 0)[1]
    assert np.mean(on_noise) > 0.97
    assert on_signal < 0.95
    assert run_rule.theta[1].argmax() == 1  # type: ignore[attr-defined]


def test_the_state_round_trips() -> None:
    dist = ArchitectureDistribution(SPACE.variables())
    rule = RegressionRule(dist, COSTS)
    pairs = list(draw_pairs(47, 0.5, 3))
    for rows, losses in pairs[:23]:
        rule.update(dist, rows, losses, np.ones(2))

    copied = ArchitectureDistribution(SPACE.variables())
    copied.load_state_dict(json.loads(json.dumps(dist.state_dict())))
    loaded = RegressionRule(copied, COSTS)
    loaded.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    for rows, losses in pairs[23:]:
        rule.update(dist, rows, losses, np.ones(2))
        loaded.update(copied, rows, losses, np.ones(2))
    assert np.array_equal(dist.theta, copied.theta)
    assert json.dumps(rule.state_dict()) == json.dumps(loaded.state_dict())

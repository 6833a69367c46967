"""Update rules that learn from the same recorded losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.theta_rules import RecordedStep, RecordingSampler, compare_ratings, learn
from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.space import SearchSpace

SPACE = SearchSpace(3, depth=(3,), heads=(2, 4), ffn=(16, 64))


class _Costs:
    def cost(self, kind: str, arch: Architecture) -> float:
        return float(sum(arch.heads) + sum(arch.ffn))


CONTEXT: Any = SimpleNamespace(
    space=SPACE, costs=_Costs(), job=SimpleNamespace(space=SimpleNamespace(joint=False))
)


def record(sign: float) -> RecordingSampler:
    """Return 400 steps in which networks with many heads in the first layer have the lower loss."""
    phases = progressive_phases(SPACE)
    recorder = RecordingSampler(None, Schedule(phases, (1,) * len(phases)))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for _ in range(400):
        archs = [SPACE.sample_uniform(rng) for _ in range(2)]
        rows = np.array([SPACE.encode(arch) for arch in archs])
        losses = np.array([-sign * arch.heads[0] + rng.normal() for arch in archs])
        recorder.steps.append(RecordedStep(len(phases) - 1, rows, False, {"labels": losses}))
    return recorder


@pytest.mark.parametrize("rule", ["asng", "regression"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_theta_prefers_what_had_the_lower_losses(rule: str, sign: float) -> None:
    theta = learn(CONTEXT, record(sign), rule, "labels")
    many = Architecture(3, (4, 2, 2), (16, 16, 16))
    few = Architecture(3, (2, 2, 2), (16, 16, 16))
    ratings = theta.rating(np.stack([SPACE.encode(many), SPACE.encode(few)]))
    assert np.sign(ratings[0] - ratings[1]) == sign


def test_a_rule_is_compared_with_the_first_one_on_the_same_networks() -> None:
    quality = np.random.default_rng(1).normal(size=30)
    ratings = {"first": -quality, "same": -quality, "perfect": quality}
    figures = compare_ratings(ratings, quality, np.random.default_rng(0))
    assert figures["first"]["tau"] == pytest.approx(-1.0)
    assert (figures["same"]["low"], figures["same"]["high"]) == (0.0, 0.0)
    assert figures["perfect"]["difference"] == pytest.approx(2.0)
    assert figures["perfect"]["low"] == pytest.approx(2.0)

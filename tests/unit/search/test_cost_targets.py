"""Samples of a wanted cost: they are in the bands of the budgets, or even over all costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raycomp.config.identity import artifact_keys
from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.methods.uniform import UniformSampler
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.cost_targets import BAND, CostTargets, job_targets
from raycomp.search.space import SearchSpace

SPACE = SearchSpace(6, (3, 4, 5, 6), (4, 8, 12), (256, 384, 512, 1536))
SHAPE = EncoderShape(
    hidden_size=384, embedding_size=384, head_size=32, layer_heads=(12,) * 6, layer_ffn=(1536,) * 6,
    vocab_size=30522, max_position_embeddings=512, type_vocab_size=2, num_labels=2,
)  # fmt: skip
COSTS = CostModel(SHAPE, 64)
SMALLEST = float(COSTS.cost("encoder_params", SPACE.smallest()))
LARGEST = float(COSTS.cost("encoder_params", SPACE.largest()))


def size(arch: Architecture) -> float:
    return float(COSTS.cost("encoder_params", arch))


def make_targets(budget_share: float, cost_share: float) -> CostTargets:
    budgets = [(size, 0.15 * LARGEST), (size, 0.5 * LARGEST)]
    return CostTargets(budgets, size, budget_share, cost_share)


def draw(targets: CostTargets, count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    drawn = [targets.draw(SPACE, 1, rng) for _ in range(count)]
    return [archs[0] for archs in drawn if archs is not None]


def test_samples_for_budgets_are_within_their_limits_and_near_them() -> None:
    shares = np.array([size(arch) / LARGEST for arch in draw(make_targets(1.0, 0.0), 200)])
    is_small = shares <= 0.15
    assert 0.35 < is_small.mean() < 0.65
    assert shares.max() <= 0.5
    # A step of one choice is at most 11% of the encoder, and the growth ends within one step.
    assert shares[~is_small].min() > 0.5 * (1 - BAND) - 0.11
    assert len({round(share, 4) for share in shares}) > 20


def test_an_even_spread_reaches_the_small_end_that_uniform_draws_miss() -> None:
    rng = np.random.default_rng(0)
    uniform = [size(SPACE.sample_uniform(rng)) / LARGEST for _ in range(400)]
    spread = [size(arch) / LARGEST for arch in draw(make_targets(0.0, 1.0), 400)]

    def share_below(values: list[float], limit: float) -> float:
        return float(np.mean(np.array(values) < limit))

    assert share_below(uniform, 0.16) < 0.02 < share_below(spread, 0.16)
    assert share_below(spread, 0.2) > 1.5 * share_below(uniform, 0.2)
    assert share_below(spread, 0.56) == pytest.approx(0.5, abs=0.12)


def test_the_shares_are_parts_of_the_steps() -> None:
    assert len(draw(make_targets(0.25, 0.25), 800)) == pytest.approx(400, abs=50)
    assert draw(make_targets(0.0, 0.0), 50) == []


def test_an_early_phase_gets_its_smallest_open_architecture() -> None:
    rng = np.random.default_rng(0)
    open_space = SearchSpace(6, (6,), (8, 12), (1536,))
    archs = make_targets(1.0, 0.0).draw(open_space, 2, rng)
    assert archs is not None
    assert all(open_space.contains(arch) for arch in archs)


# The samplers


def make_sampler(targets: CostTargets | None, **changes: Any) -> EESNG:
    phases = progressive_phases(SPACE)
    schedule = Schedule(phases, (1,) * (len(phases) - 1) + (60,))
    settings = EESNGSettings(pairing="free", mode="exploit", sampler_sync_steps=5, **changes)
    return EESNG(SPACE, schedule, settings, targets=targets)


def walk(sampler: EESNG, first: int, last: int) -> list[list[Architecture]]:
    draws = []
    for step in range(first, last):
        archs = sampler.ask(step)
        draws.append(archs)
        sampler.tell(step, [size(arch) / LARGEST for arch in archs])
    return draws


@pytest.mark.parametrize("joint", [False, True])
def test_steps_with_a_target_train_networks_of_it_and_leave_theta_as_it_is(joint: bool) -> None:
    sampler = make_sampler(make_targets(1.0, 0.0), joint=joint)
    phases = len(sampler.schedule.phases)
    walk(sampler, 0, phases)
    before = sampler.probabilities()
    drawn = walk(sampler, phases, phases + 40)
    assert sampler.probabilities() == before
    shares = [size(arch) / LARGEST for archs in drawn for arch in archs]
    assert max(shares) <= 0.5
    assert min(shares) <= 0.15
    assert all(abs(size(first) - size(second)) / LARGEST < 0.2 for first, second in drawn)


def test_without_targets_the_draws_are_those_of_before() -> None:
    plain = walk(make_sampler(None), 0, 40)
    assert walk(make_sampler(make_targets(0.5, 0.0)), 0, 40) != plain
    learnt = make_sampler(make_targets(0.5, 0.0))
    start = learnt.probabilities()
    walk(learnt, 0, 40)
    assert learnt.probabilities() != start


def test_a_sampler_with_targets_resumes_within_a_block() -> None:
    whole = make_sampler(make_targets(0.5, 0.2))
    expected = walk(whole, 0, 50)
    first = make_sampler(make_targets(0.5, 0.2))
    walk(first, 0, 33)
    second = make_sampler(make_targets(0.5, 0.2))
    second.load_state_dict(first.state_dict())
    assert walk(second, 33, 50) == expected[33:]


def test_states_of_older_checkpoints_load() -> None:
    first = make_sampler(None)
    walk(first, 0, 33)
    first.ask(33)
    state = first.state_dict()
    state["drawn"] = [fields[:5] for fields in state["drawn"]]
    second = make_sampler(None)
    second.load_state_dict(state)
    assert walk(second, 33, 40) == walk(first, 33, 40)


def test_the_uniform_sampler_is_a_function_of_seed_and_step_with_targets_too() -> None:
    sampler = UniformSampler(SPACE, 2, 3, make_targets(0.5, 0.5))
    drawn = [sampler.ask(step) for step in range(60)]
    assert drawn == [sampler.ask(step) for step in range(60)]
    assert min(size(arch) / LARGEST for archs in drawn for arch in archs) < 0.16


# The job


def test_a_job_without_shares_has_no_targets_and_its_old_identity(tiny_job: dict[str, Any]) -> None:
    plain = parse_job(tiny_job)
    assert job_targets(plain, SPACE, COSTS) is None
    tiny_job["train"] |= {"budget_share": 0.0, "cost_share": 0.0}
    assert parse_job(tiny_job).identity() == plain.identity()

    tiny_job["train"]["budget_share"] = 0.5
    targeted = parse_job(tiny_job)
    assert targeted.identity() != plain.identity()
    targets = job_targets(targeted, SPACE, COSTS)
    assert targets is not None
    assert [limit for _, limit in targets.budgets] == [
        0.5 * LARGEST, 0.35 * float(COSTS.cost("flops", SPACE.largest())),
    ]  # fmt: skip

    # Its super-network depends on the budgets.
    key = artifact_keys(targeted)["supernet"]
    tiny_job["budget"][0]["encoder_params"] = "0.4x"
    assert artifact_keys(parse_job(tiny_job))["supernet"] != key


def test_shares_above_the_whole_are_refused(tiny_job: dict[str, Any]) -> None:
    tiny_job["train"] |= {"budget_share": 0.6, "cost_share": 0.6}
    with pytest.raises(UserError, match="at most 1"):
        parse_job(tiny_job)

"""The sampler of the super-network's training: draws, updates, blocks and its state."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.space import SearchSpace

SPACE = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))
STEPS = (2, 5, 5, 5, 5, 5, 50)
LAST_PHASE = sum(STEPS[:-1])
"""First step of the last phase, in which every choice is open."""


def cost(arch: Architecture) -> float:
    return float(sum(arch.heads) * 16 + sum(arch.ffn))


def make_sampler(**changes: object) -> EESNG:
    settings = replace(EESNGSettings(interval=2), **changes)  # type: ignore[arg-type]

    def costs(rows: np.ndarray) -> np.ndarray:
        return np.array([cost(SPACE.decode(row, settings.joint)) for row in rows])

    return EESNG(SPACE, Schedule(progressive_phases(SPACE), STEPS), settings, costs)


def walk(sampler: EESNG, first: int, last: int) -> list[list[Architecture]]:
    """Ask and tell steps first..last-1, with a loss that grows with the cost; return the draws."""
    draws = []
    for step in range(first, last):
        archs = sampler.ask(step)
        draws.append(archs)
        sampler.tell(step, [cost(arch) / 100 for arch in archs])
    return draws


def test_only_open_choices_are_drawn() -> None:
    sampler = make_sampler()
    for step, archs in enumerate(walk(sampler, 0, sum(STEPS))):
        phase = sampler.schedule.phase_at(step)
        for arch in archs:
            assert arch.depth in phase.depth
            assert set(arch.heads) <= set(phase.heads)
            assert set(arch.ffn) <= set(phase.ffn)
        assert len(archs) == (1 if phase.name == "largest" else 2)


def test_asking_twice_gives_the_same_and_telling_twice_counts_once() -> None:
    first, second = make_sampler(), make_sampler()
    walk(first, 0, 6)
    walk(second, 0, 6)
    assert first.ask(6) == first.ask(6) == second.ask(6)
    losses = [1.0] * len(first.ask(6))
    losses[0] = 0.5
    first.tell(6, losses)
    first.tell(6, [9.0] * len(losses))
    second.tell(6, losses)
    assert first.state_dict() == second.state_dict()


def test_wrong_use_is_refused() -> None:
    sampler = make_sampler()
    with pytest.raises(ValueError, match="never asked"):
        sampler.tell(0, [1.0])
    sampler.ask(0)
    with pytest.raises(ValueError, match="still to be told"):
        sampler.ask(1)
    with pytest.raises(ValueError, match="losses are expected"):
        sampler.tell(0, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="samples must be at least 2"):
        make_sampler(samples=1)


@pytest.mark.parametrize("update", ["raw", "sng", "asng"])
@pytest.mark.parametrize("joint", [False, True])
def test_state_round_trips_bit_for_bit(update: str, joint: bool) -> None:
    original = make_sampler(update=update, joint=joint)
    walk(original, 0, 30)
    original.ask(30)  # the state has a draw that is not told
    restored = make_sampler(update=update, joint=joint)
    restored.load_state_dict(json.loads(json.dumps(original.state_dict())))
    assert original.ask(30) == restored.ask(30)
    for sampler in (original, restored):
        sampler.tell(30, [cost(arch) for arch in sampler.ask(30)])
    assert walk(original, 31, 60) == walk(restored, 31, 60)
    assert json.dumps(original.state_dict()) == json.dumps(restored.state_dict())


def test_the_controller_is_the_share_of_entropy_left() -> None:
    """K = rho / rho_max over the open variables, updated every I steps (Eq. 6)."""
    sampler = make_sampler(interval=4, pairing="free")
    walk(sampler, 0, LAST_PHASE)
    for step in range(LAST_PHASE, LAST_PHASE + 8):
        expected = sampler.distribution.entropy() / sampler.distribution.max_entropy()
        sampler.ask(step)
        if step % 4 == 0:
            assert sampler.info(step)["p_exploit"] == pytest.approx(expected)
        sampler.tell(step, [1.0, 2.0])
    num_variables = 1 + 2 * 3  # depth, then heads and FFN of three layers; each has three choices
    assert sampler.distribution.max_entropy() == pytest.approx(num_variables * math.log(3))


def test_each_mode_is_one_half_of_the_sampler() -> None:
    explore = make_sampler(mode="explore")
    walk(explore, 0, 40)
    assert explore.distribution.entropy() == pytest.approx(explore.distribution.max_entropy())
    exploit = make_sampler(mode="exploit")
    walk(exploit, 0, 40)
    exploit.ask(40)
    assert exploit.info(40)["p_exploit"] == 1.0
    assert exploit.distribution.entropy() < exploit.distribution.max_entropy()


@pytest.mark.parametrize(
    ("exploration_update", "moves"), [("skip", False), ("weighted", True), ("plain", True)]
)
def test_exploration_moves_theta_unless_it_is_skipped(exploration_update: str, moves: bool) -> None:
    sampler = make_sampler(exploration_update=exploration_update)
    walk(sampler, 0, 30)
    has_moved = False
    for step in range(31, 41, 2):
        sampler._exploit_probability = 0.0
        walk(sampler, step - 1, step)
        sampler._exploit_probability = 0.0  # odd steps do not update the controller
        before = sampler.distribution.theta.copy()
        archs = sampler.ask(step)
        assert sampler.info(step)["explored"]
        sampler.tell(step, [cost(arch) for arch in archs])
        has_moved |= not np.array_equal(before, sampler.distribution.theta)
    assert has_moved == moves


def test_matched_pairs_are_closer_in_cost() -> None:
    def mean_gap(pairing: str) -> float:
        sampler = make_sampler(pairing=pairing, mode="explore")
        pairs = walk(sampler, 0, sum(STEPS))[-50:]
        return float(np.mean([abs(cost(first) - cost(second)) for first, second in pairs]))

    assert mean_gap("matched") < 0.35 * mean_gap("free")


@pytest.mark.parametrize("joint", [False, True])
def test_candidates_drawn_at_once_are_those_drawn_in_turn(
    joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing several rows at once uses the random numbers of single draws, in the same order."""
    at_once = make_sampler(joint=joint)
    draws = walk(at_once, 0, sum(STEPS))

    def sample_in_turn(self: EESNG, count: int, explored: bool) -> np.ndarray:
        draw = self.distribution.sample_uniform if explored else self.distribution.sample
        rows = []
        for _ in range(count):
            row = draw(self._rng)
            depth = self.space.depth[int(row[0])]
            has_layer = [v.layer is None or v.layer < depth for v in self.distribution.variables]
            rows.append([int(c) if has else -1 for c, has in zip(row, has_layer, strict=True)])
        return np.array(rows)

    monkeypatch.setattr(EESNG, "_sample_rows", sample_in_turn)
    in_turn = make_sampler(joint=joint)
    assert walk(in_turn, 0, sum(STEPS)) == draws
    assert in_turn.state_dict() == at_once.state_dict()


def test_a_block_is_drawn_before_any_of_its_losses_is_told() -> None:
    """Within a block, the draws do not depend on the order of asking and telling."""
    all_ahead = make_sampler(sampler_sync_steps=5)
    in_turn = make_sampler(sampler_sync_steps=5)
    without_blocks = make_sampler()
    first = 0
    differs = False
    while first < sum(STEPS):
        steps = range(first, all_ahead.block_end(first))
        block = [all_ahead.ask(step) for step in steps]
        infos = [all_ahead.info(step) for step in steps]
        for step, archs, info in zip(steps, block, infos, strict=True):
            assert in_turn.ask(step) == archs
            assert in_turn.info(step) == info
            for sampler in (all_ahead, in_turn):
                sampler.tell(step, [cost(arch) / 100 for arch in archs])
            differs |= walk(without_blocks, step, step + 1)[0] != archs
        assert all_ahead.state_dict() == in_turn.state_dict()
        assert all_ahead.state_dict()["drawn"] == []
        first = steps.stop
    assert differs  # theta changes between blocks here, and after every step without blocks


def test_blocks_end_at_multiples_at_phases_and_after_a_phases_first_step() -> None:
    sampler = make_sampler(sampler_sync_steps=5)
    first = 0
    ends = []
    while first < sum(STEPS):
        first = sampler.block_end(first)
        ends.append(first)
    assert ends[:9] == [1, 2, 3, 5, 7, 8, 10, 12, 13]  # phases start at 0, 2, 7, 12, ...
    starts = [sum(STEPS[:i]) for i in range(len(STEPS))]
    assert set(ends) >= {*starts[1:], *(s + 1 for s in starts), *range(5, sum(STEPS) + 1, 5)}
    assert [make_sampler().block_end(step) for step in range(20)] == list(range(1, 21))


def test_layers_that_no_sample_has_do_not_move_theta() -> None:
    sampler = make_sampler(mode="exploit", pairing="free", update="sng")
    walk(sampler, 0, LAST_PHASE)
    for step in range(LAST_PHASE, LAST_PHASE + 40):
        before = sampler.distribution.theta.copy()
        archs = sampler.ask(step)
        sampler.tell(step, [cost(arch) for arch in archs])
        deepest = max(arch.depth for arch in archs)
        for i, variable in enumerate(sampler.distribution.variables):
            if variable.layer is not None and variable.layer >= deepest:
                assert sampler.distribution.theta[i] == pytest.approx(before[i], abs=1e-12)

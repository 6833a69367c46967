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


def cost(arch: Architecture) -> float:
    return float(sum(arch.heads) * 16 + sum(arch.ffn))


def make(**changes: object) -> EESNG:
    settings = replace(EESNGSettings(interval=2), **changes)  # type: ignore[arg-type]

    def costs(rows: np.ndarray) -> np.ndarray:
        return np.array([cost(SPACE.decode(row, settings.joint)) for row in rows])

    return EESNG(SPACE, Schedule(progressive_phases(SPACE), STEPS), settings, costs)


def walk(sampler: EESNG, first: int, last: int) -> list[list[Architecture]]:
    asked = []
    for step in range(first, last):
        archs = sampler.ask(step)
        asked.append(archs)
        sampler.tell(step, [cost(a) / 100 for a in archs])
    return asked


def test_only_open_choices_are_asked() -> None:
    sampler = make()
    for step, archs in enumerate(walk(sampler, 0, sum(STEPS))):
        phase = sampler.schedule.phase_at(step)
        for arch in archs:
            assert arch.depth in phase.depth
            assert set(arch.heads) <= set(phase.heads)
            assert set(arch.ffn) <= set(phase.ffn)
        assert len(archs) == (1 if phase.name == "largest" else 2)


def test_asking_twice_gives_the_same_and_telling_twice_counts_once() -> None:
    a, b = make(), make()
    walk(a, 0, 6)
    walk(b, 0, 6)
    assert a.ask(6) == a.ask(6) == b.ask(6)
    losses = [1.0] * len(a.ask(6))
    losses[0] = 0.5
    a.tell(6, losses)
    a.tell(6, [9.0] * len(losses))
    b.tell(6, losses)
    assert a.state_dict() == b.state_dict()


def test_wrong_use_is_refused() -> None:
    sampler = make()
    with pytest.raises(ValueError, match="never asked"):
        sampler.tell(0, [1.0])
    sampler.ask(0)
    with pytest.raises(ValueError, match="still to be told"):
        sampler.ask(1)
    with pytest.raises(ValueError, match="losses are expected"):
        sampler.tell(0, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("update", ["raw", "sng", "asng"])
@pytest.mark.parametrize("joint", [False, True])
def test_state_round_trips_bit_for_bit(update: str, joint: bool) -> None:
    one = make(update=update, joint=joint)
    walk(one, 0, 30)
    one.ask(30)  # between asked and told
    two = make(update=update, joint=joint)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert one.ask(30) == two.ask(30)
    for sampler in (one, two):
        sampler.tell(30, [cost(a) for a in sampler.ask(30)])
    assert walk(one, 31, 60) == walk(two, 31, 60)
    assert json.dumps(one.state_dict()) == json.dumps(two.state_dict())


def test_the_controller_is_the_share_of_entropy_left() -> None:
    """K = rho / rho_max, over open variables, refreshed every I steps (Eq. 6)."""
    sampler = make(interval=4, pairing="free")
    walk(sampler, 0, sum(STEPS[:-1]))
    first = sum(STEPS[:-1])
    for step in range(first, first + 8):
        expected = sampler.dist.entropy() / sampler.dist.max_entropy()
        sampler.ask(step)
        if step % 4 == 0:
            assert sampler.info(step)["p_exploit"] == pytest.approx(expected)
        sampler.tell(step, [1.0, 2.0])
    free = 1 + 2 * 3
    assert sampler.dist.max_entropy() == pytest.approx(free * math.log(3))


def test_modes_and_exploration() -> None:
    explore = make(mode="explore")
    walk(explore, 0, 40)
    assert explore.dist.entropy() == pytest.approx(explore.dist.max_entropy())
    exploit = make(mode="exploit")
    walk(exploit, 0, 40)
    exploit.ask(40)
    assert exploit.info(40)["p_exploit"] == 1.0
    assert exploit.dist.entropy() < exploit.dist.max_entropy()


def test_left_out_exploration_does_not_move_theta_and_plain_does() -> None:
    for explore, moves in (("skip", False), ("weighted", True), ("plain", True)):
        sampler = make(exploration_update=explore)
        walk(sampler, 0, 30)
        sampler._k = 0.0
        moved = False
        for step in range(31, 41, 2):  # not multiples of I: K stays
            walk(sampler, step - 1, step)
            sampler._k = 0.0
            before = [t.copy() for t in sampler.dist.theta]
            archs = sampler.ask(step)
            assert sampler.info(step)["explored"]
            sampler.tell(step, [cost(a) for a in archs])
            after = sampler.dist.theta
            moved |= any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert moved == moves


def test_matched_pairs_are_nearer_in_cost() -> None:
    def gap(pairs: str) -> float:
        sampler = make(pairing=pairs, mode="explore")
        asked = walk(sampler, 0, sum(STEPS))[-50:]
        return float(np.mean([abs(cost(a) - cost(b)) for a, b in asked]))

    assert gap("matched") < 0.35 * gap("free")


@pytest.mark.parametrize("joint", [False, True])
def test_candidates_drawn_at_once_are_those_drawn_in_turn(
    joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of draws is the one that runs had before: a walk by single draws is the same walk."""
    at_once = make(joint=joint)
    asked = walk(at_once, 0, sum(STEPS))

    def in_turn(self: EESNG, count: int, explored: bool) -> np.ndarray:
        draw, rows = self.dist.sample_uniform if explored else self.dist.sample, []
        for _ in range(count):
            row = draw(self._rng)
            depth = self.space.depth[int(row[0])]
            kept = [v.layer is None or v.layer < depth for v in self.dist.variables]
            rows.append([int(c) if k else -1 for c, k in zip(row, kept, strict=True)])
        return np.array(rows)

    monkeypatch.setattr(EESNG, "_some", in_turn)
    single = make(joint=joint)
    assert walk(single, 0, sum(STEPS)) == asked
    assert single.state_dict() == at_once.state_dict()


def test_a_block_is_drawn_before_any_of_its_losses_is_told() -> None:
    """What is drawn does not depend on the order of asking and telling within a block."""
    at_once, in_turn, plain = make(sampler_sync_steps=5), make(sampler_sync_steps=5), make()
    first, differs = 0, False
    while first < sum(STEPS):
        steps = range(first, at_once.block_end(first))
        ahead = [at_once.ask(s) for s in steps]
        infos = [at_once.info(s) for s in steps]
        for step, archs, info in zip(steps, ahead, infos, strict=True):
            assert in_turn.ask(step) == archs
            assert in_turn.info(step) == info
            for sampler in (at_once, in_turn):
                sampler.tell(step, [cost(a) / 100 for a in archs])
            differs |= walk(plain, step, step + 1)[0] != archs
        assert at_once.state_dict() == in_turn.state_dict()
        assert at_once.state_dict()["drawn"] == []
        first = steps.stop
    assert differs  # theta stood still within blocks, else it moves at every step


def test_blocks_end_at_multiples_at_phases_and_after_a_phases_first_step() -> None:
    sampler, first, ends = make(sampler_sync_steps=5), 0, []
    while first < sum(STEPS):
        first = sampler.block_end(first)
        ends.append(first)
    assert ends[:9] == [1, 2, 3, 5, 7, 8, 10, 12, 13]  # phases begin at 0, 2, 7, 12, ...
    starts = [sum(STEPS[:i]) for i in range(len(STEPS))]
    assert set(ends) >= {*starts[1:], *(s + 1 for s in starts), *range(5, sum(STEPS) + 1, 5)}
    assert [make().block_end(s) for s in range(20)] == list(range(1, 21))


def test_inactive_layers_say_nothing() -> None:
    sampler = make(mode="exploit", pairing="free", update="sng")
    first = sum(STEPS[:-1])
    walk(sampler, 0, first)
    for step in range(first, first + 40):
        before = [t.copy() for t in sampler.dist.theta]
        archs = sampler.ask(step)
        sampler.tell(step, [cost(a) for a in archs])
        deepest = max(a.depth for a in archs)
        for i, variable in enumerate(sampler.dist.variables):
            if variable.layer is not None and variable.layer >= deepest:
                assert sampler.dist.theta[i] == pytest.approx(before[i], abs=1e-12)

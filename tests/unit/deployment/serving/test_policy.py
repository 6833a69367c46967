"""The policy keeps the target under load and moves back, in a simulated server with a single worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from raycomp.deployment.serving.policy import RATE_SECONDS, NetworkPolicy, Speed

MAX_BATCH = 32
SPEEDS = [Speed(2.0, 8.0), Speed(1.0, 4.0), Speed(0.5, 1.0)]
TARGET_MS = 100.0
TEACHER_LIMIT = 1000 / SPEEDS[0].text_ms
"""Texts per second at which the first network is busy all the time."""


@dataclass
class Outcome:
    arrived_s: np.ndarray
    answer_ms: np.ndarray
    level: np.ndarray

    def p95_ms(self, first_s: float = 0.0) -> float:
        return float(np.percentile(self.answer_ms[self.arrived_s >= first_s], 95))


def simulate(
    policy: NetworkPolicy, phases: list[tuple[float, float]], *, slowness: float = 1.0, seed: int = 0
) -> Outcome:
    """Serve requests of one text, which arrive at random. Phases are seconds and requests per second."""
    rng = np.random.default_rng(seed)
    arrivals: list[float] = []
    start = 0.0
    for seconds, rate in phases:
        arrivals += list(start + np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))))
        start += seconds

    answer_ms = np.zeros(len(arrivals))
    levels = np.zeros(len(arrivals), int)
    now, seen, done = 0.0, 0, 0
    while done < len(arrivals):
        now = max(now, arrivals[done])
        while seen < len(arrivals) and arrivals[seen] <= now:
            policy.record_arrival(arrivals[seen], 1)
            seen += 1
        level = policy.choose(now, seen - done, (now - arrivals[done]) * 1000)
        batch = range(done, min(seen, done + MAX_BATCH))
        took_ms = slowness * SPEEDS[level].batch_ms(len(batch))
        now += took_ms / 1000
        policy.record_batch(level, len(batch), took_ms)
        for i in batch:
            answer_ms[i] = (now - arrivals[i]) * 1000
            levels[i] = level
            policy.record_answer(arrivals[i], answer_ms[i])
        done = batch.stop

    return Outcome(np.array(arrivals), answer_ms, levels)


def make_policy(target_ms: float | None = TARGET_MS) -> NetworkPolicy:
    return NetworkPolicy(SPEEDS, target_ms, MAX_BATCH)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("overload", [1.0, 2.0, 6.0])
def test_the_target_is_kept_at_a_load_that_breaks_the_first_network(seed: int, overload: float) -> None:
    phases = [(10.0, overload * TEACHER_LIMIT)]

    kept = simulate(make_policy(), phases, seed=seed)
    # A policy that may not move is the mutant.
    broken = simulate(NetworkPolicy(SPEEDS[:1], TARGET_MS, MAX_BATCH), phases, seed=seed)

    assert kept.p95_ms() <= TARGET_MS
    assert broken.p95_ms() > TARGET_MS


@pytest.mark.parametrize("slowness", [0.3, 2.0])
def test_the_policy_learns_that_texts_are_shorter_or_longer_than_those_it_was_timed_on(
    slowness: float,
) -> None:
    policy = make_policy()

    outcome = simulate(policy, [(20.0, 0.9 * TEACHER_LIMIT / slowness)], slowness=slowness)

    assert outcome.p95_ms() <= TARGET_MS
    # Short texts leave time for the accurate networks, although the timed texts were longer.
    assert slowness > 1 or (outcome.level < 2).mean() > 0.5


def test_one_slow_batch_does_not_move_the_policy_and_lasting_slowness_does() -> None:
    policy = make_policy()
    slow_ms = 60 * SPEEDS[0].batch_ms(1)

    # The machine was busy for a moment. 10 ms are expected for the text that waits now.
    policy.record_batch(0, 1, slow_ms)
    assert policy.choose(1.0, 1, 0.0) == 0

    for _ in range(20):
        policy.record_batch(0, 1, slow_ms)
    assert policy.choose(2.0, 1, 0.0) > 0


def test_a_small_load_is_answered_by_the_first_network() -> None:
    policy = make_policy()

    outcome = simulate(policy, [(60.0, 0.3 * TEACHER_LIMIT)])

    assert (outcome.level == 0).mean() > 0.99
    assert outcome.p95_ms() <= TARGET_MS


def test_the_policy_moves_back_after_the_load() -> None:
    policy = make_policy()

    outcome = simulate(policy, [(10.0, 4 * TEACHER_LIMIT), (30.0, 0.2 * TEACHER_LIMIT)])

    assert (outcome.level[outcome.arrived_s < 10.0] > 0).mean() > 0.9
    assert (outcome.level[outcome.arrived_s > 25.0] == 0).all()


def test_the_policy_moves_back_while_no_request_comes() -> None:
    policy = make_policy()
    simulate(policy, [(2.0, 6 * TEACHER_LIMIT)])
    assert policy.level == 2

    levels = []
    for step in range(40):
        policy.rest(3.0 + step / 2)
        levels.append(policy.level)

    # Not at once: a burst can have pauses. One network at a time.
    assert levels[0] == 2
    assert sorted(set(levels)) == [0, 1, 2]
    assert levels == sorted(levels, reverse=True)
    assert policy.num_moves >= 3


def test_a_policy_without_a_target_or_with_slow_networks_does_not_move_back_while_it_rests() -> None:
    for target_ms in (None, 1.0):
        policy = make_policy(target_ms)
        policy.level = 1
        for second in range(100):
            policy.rest(float(second))
        assert policy.level == 1


def test_a_burst_after_a_calm_time_is_not_answered_by_a_network_that_would_be_late() -> None:
    policy = make_policy()
    policy.choose(0.0, 100, 0.0)
    assert policy.level == 2
    policy.rest(5.0)
    for _ in range(MAX_BATCH):
        policy.record_arrival(10.0, 1)

    # 5 seconds of calm are enough for a move back, but not with 32 texts of 4 ms each.
    assert policy.choose(10.0, MAX_BATCH, 0.0) == 2
    assert policy.choose(10.2, 1, 0.0) == 1


@pytest.mark.parametrize("load", [0.5, 0.8, 2.0])
def test_the_policy_does_not_move_to_and_fro_at_a_constant_load(load: float) -> None:
    policy = make_policy()

    simulate(policy, [(40.0, load * TEACHER_LIMIT)])

    # Once a second would be 40 moves.
    assert policy.num_moves <= 8


def test_a_move_back_needs_seconds_of_small_load(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = [(0.2, 6 * TEACHER_LIMIT), (0.8, 0.05 * TEACHER_LIMIT)] * 20

    steady = make_policy()
    simulate(steady, phases)
    monkeypatch.setattr("raycomp.deployment.serving.policy.HOLD_SECONDS", 0.0)
    monkeypatch.setattr("raycomp.deployment.serving.policy.RATE_SECONDS", 0.05)
    hasty = make_policy()
    simulate(hasty, phases)

    # The mutant without hysteresis follows every burst.
    assert steady.num_moves < hasty.num_moves / 3


def test_a_measured_percentile_above_the_target_lowers_the_network() -> None:
    policy = make_policy()

    # The prediction sees one waiting text; the clients wait for something that it does not know.
    for i in range(30):
        policy.record_answer(float(i), 2 * TARGET_MS)

    assert policy.choose(31.0, 1, 0.0) == 1
    # Answers from before the move must not move it again.
    policy.record_answer(30.5, 2 * TARGET_MS)
    assert policy.choose(31.1, 1, 0.0) == 1


def test_without_a_target_the_first_network_answers() -> None:
    assert make_policy(None).choose(0.0, 4096, 1e6) == 0


@pytest.mark.parametrize(
    ("target_ms", "num_waiting", "level"), [(1000.0, 1, 0), (10.0, 1, 1), (3.0, 1, 2), (1e-6, 1, 2)]
)
def test_a_request_gets_the_first_network_that_is_in_time(
    target_ms: float, num_waiting: int, level: int
) -> None:
    assert make_policy(None).choose_for(target_ms, num_waiting, 0.0) == level


def test_a_speed_is_the_line_through_two_measurements() -> None:
    assert Speed.of_measurements(10.0, 80.0, 8) == Speed(0.0, 10.0)
    assert Speed.of_measurements(3.0, 17.0, 8) == Speed(1.0, 2.0)
    # Noise can make a batch faster than one text. Times below zero would mislead the policy.
    assert Speed.of_measurements(5.0, 4.0, 8) == Speed(5.0, 0.0)


@pytest.mark.parametrize("target_ms", [None, TARGET_MS])
def test_a_long_service_keeps_the_arrivals_of_the_last_seconds_only(target_ms: float | None) -> None:
    """Also without a target, and at a small load: nothing asks for the rate of arrivals then."""
    policy = make_policy(target_ms)
    for second in range(200):
        policy.record_arrival(float(second), 1)
        policy.choose(float(second), 1, 0.0)
    assert len(policy._arrivals) <= RATE_SECONDS + 1

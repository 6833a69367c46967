"""The choice of the network for each batch of a server, to keep the asked 95th percentile.

The networks are ordered from the most to the least expensive one. Under load the policy moves to
cheaper networks at once. It moves back one network at a time, and only after the load has been small
enough for some seconds. Times are arguments: the class never reads a clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 0.8
"""Part of the target that a predicted answer time may use. The rest is for errors of the prediction."""

TAIL = 3.0
"""95th percentile of a waiting time over its mean: that of an exponential distribution."""

MAX_UTILISATION = 0.7
"""Part of the time that a more expensive network may compute before the policy moves back to it."""

RATE_SECONDS = 2.0
"""Seconds over which arrivals are counted."""

HOLD_SECONDS = 2.0
MAX_HOLD_SECONDS = 60.0
"""Seconds of small load before a move back. They double after each move back that did not last."""

LASTING_SECONDS = 10.0
"""Seconds after which a move back counts as lasting."""

NUM_ANSWERS = 100
MIN_ANSWERS = 20
"""Answers of the measured percentile, and the fewest that count."""

SCALE_STEP = 0.2
"""Weight of the last batch in the average of measured over expected times."""

MAX_GROWTH = 2.0
"""Largest ratio of a batch that counts, over the average. A slower batch counts as one of this ratio."""


@dataclass(frozen=True)
class Speed:
    """Time of a batch of one network: a constant, and a time per text.

    Attributes:
        fixed_ms: Milliseconds of any batch.
        text_ms: Milliseconds of each text of the batch.
    """

    fixed_ms: float
    text_ms: float

    def batch_ms(self, num_texts: int) -> float:
        """Return the milliseconds of a batch."""
        return self.fixed_ms + self.text_ms * num_texts

    @classmethod
    def of_measurements(cls, single_ms: float, batch_ms: float, batch: int) -> Speed:
        """Return the line through the times of one text and of a batch.

        Args:
            single_ms: Time of a batch with one text.
            batch_ms: Time of a batch with `batch` texts.
            batch: Number of texts, above 1.
        """
        text_ms = max(0.0, (batch_ms - single_ms) / (batch - 1))
        # A batch may be faster per text than a line from the origin, and never costs less than nothing.
        return cls(max(0.0, single_ms - text_ms), text_ms)


class NetworkPolicy:
    """Chooses the network of the next batch.

    Example:
        >>> policy = NetworkPolicy([Speed(1.0, 10.0), Speed(1.0, 1.0)], target_ms=50.0, max_batch=16)
        >>> policy.choose(now_s=0.0, num_waiting=1, oldest_ms=0.0)
        0
        >>> policy.choose(now_s=0.1, num_waiting=16, oldest_ms=0.0)  # 161 ms are too long
        1
    """

    def __init__(self, speeds: Sequence[Speed], target_ms: float | None, max_batch: int) -> None:
        """Start with the first network.

        Args:
            speeds: Speed of each network, the most expensive first.
            target_ms: Largest 95th percentile of the answer times; None keeps the first network.
            max_batch: Largest number of texts of a batch.
        """
        self.level = 0
        self.num_moves = 0
        self._speeds = tuple(speeds)
        self._target_ms = target_ms
        self._max_batch = max_batch
        # One factor for all networks: longer texts or a busy machine slow all of them alike.
        self._scale = 1.0
        self._arrivals: deque[tuple[float, int]] = deque()
        self._answers: deque[float] = deque(maxlen=NUM_ANSWERS)
        self._moved_s = -math.inf
        self._raised_s = -math.inf
        self._calm_since_s: float | None = None
        self._hold_s = HOLD_SECONDS

    def record_arrival(self, now_s: float, num_texts: int) -> None:
        """Count the texts of a request that has arrived."""
        self._arrivals.append((now_s, num_texts))
        # Here too: a server without a target, or that is never overloaded, does not ask for the rate.
        self._forget_arrivals(now_s)

    def record_batch(self, level: int, num_texts: int, measured_ms: float) -> None:
        """Learn from the time of a batch how fast the networks are on the texts of this server.

        Args:
            level: Index of the network.
            num_texts: Texts of the batch.
            measured_ms: Time of its forward passes.
        """
        expected_ms = self._speeds[level].batch_ms(num_texts)
        if expected_ms > 0:
            # One batch that takes 60 times as long, on a machine that is busy for a moment, must not
            # move the policy. The limit follows the average: slowness that lasts is learned.
            ratio = min(measured_ms / expected_ms, MAX_GROWTH * self._scale)
            self._scale += SCALE_STEP * (ratio - self._scale)

    def record_answer(self, arrived_s: float, answer_ms: float) -> None:
        """Count the time of an answer. Requests that waited before the last move say nothing about it."""
        if arrived_s >= self._moved_s:
            self._answers.append(answer_ms)

    def choose(self, now_s: float, num_waiting: int, oldest_ms: float) -> int:
        """Return the index of the network for the next batch.

        Args:
            now_s: Time in seconds, from any start.
            num_waiting: Texts that wait, those of the next batch included.
            oldest_ms: Time for which the oldest of them has waited.
        """
        if self._target_ms is None:
            return self.level

        # Down before up: a batch that is late harms the percentile at once.
        allowed_ms = MARGIN * self._target_ms
        level = self._first_in_time(self.level, num_waiting, oldest_ms, allowed_ms)
        if level == self.level and self._is_measured_too_slow() and level < len(self._speeds) - 1:
            level += 1
        if level > self.level:
            self._lower(now_s, level)
        # In a burst after a calm time, the more expensive network can be late with the waiting texts.
        elif (
            self._may_raise(now_s)
            and self._predict_ms(self.level - 1, num_waiting, oldest_ms) <= allowed_ms
        ):
            self._raise(now_s)

        return self.level

    def rest(self, now_s: float) -> None:
        """Move back after a time of small load, although no text waits.

        Call it about twice a second while no request comes: `choose` is only called for a request.

        Args:
            now_s: As in `choose`.
        """
        if self._target_ms is not None and self._may_raise(now_s):
            self._raise(now_s)

    def choose_for(self, target_ms: float, num_waiting: int, oldest_ms: float) -> int:
        """Return the most expensive network that answers a request in time, or the last network.

        Args:
            target_ms: Time that the request allows.
            num_waiting: As in `choose`.
            oldest_ms: As in `choose`.
        """
        return self._first_in_time(0, num_waiting, oldest_ms, MARGIN * target_ms)

    def _first_in_time(self, first: int, num_waiting: int, oldest_ms: float, allowed_ms: float) -> int:
        last = len(self._speeds) - 1
        in_time = (
            level
            for level in range(first, last)
            if self._predict_ms(level, num_waiting, oldest_ms) <= allowed_ms
        )
        return next(in_time, last)

    def _predict_ms(self, level: int, num_waiting: int, oldest_ms: float) -> float:
        """Return the longest answer time of the texts that wait, if one network computes all of them."""
        num_next = min(num_waiting, self._max_batch)
        num_batches = math.ceil(num_waiting / self._max_batch)
        speed = self._speeds[level]
        next_ms = speed.batch_ms(num_next)
        all_ms = speed.fixed_ms * num_batches + speed.text_ms * num_waiting

        # The oldest text is in the next batch. The newest one waits for all batches.
        return max(oldest_ms + self._scale * next_ms, self._scale * all_ms)

    def _is_measured_too_slow(self) -> bool:
        """Return whether the measured percentile is above the target, which predictions did not see."""
        if self._target_ms is None or len(self._answers) < MIN_ANSWERS:
            return False
        times = sorted(self._answers)
        return times[math.ceil(0.95 * len(times)) - 1] > self._target_ms

    def _may_raise(self, now_s: float) -> bool:
        """Return whether the next more expensive network has been able to carry the load for long."""
        if self.level == 0 or not self._can_carry(self.level - 1, now_s):
            self._calm_since_s = None
            return False
        if self._calm_since_s is None:
            self._calm_since_s = now_s
        return now_s - self._calm_since_s >= self._hold_s

    def _can_carry(self, level: int, now_s: float) -> bool:
        """Return whether a network keeps the target at the present rate of arrivals.

        The rate does not depend on the network that computes now. At a constant load, the answer
        therefore stays the same, and the policy does not move to and fro.
        """
        assert self._target_ms is not None  # nosec B101 - `choose` returns before
        self._forget_arrivals(now_s)
        texts_per_ms = sum(number for _, number in self._arrivals) / (1000 * RATE_SECONDS)
        speed = self._speeds[level]
        # Under load, batches are large, and the constant part of their time does not count.
        utilisation = texts_per_ms * self._scale * speed.text_ms
        if utilisation > MAX_UTILISATION:
            return False

        single_ms = self._scale * speed.batch_ms(1)
        waiting_ms = TAIL * single_ms * utilisation / (1 - utilisation)
        return single_ms + waiting_ms <= MARGIN * self._target_ms

    def _forget_arrivals(self, now_s: float) -> None:
        while self._arrivals and self._arrivals[0][0] < now_s - RATE_SECONDS:
            self._arrivals.popleft()

    def _lower(self, now_s: float, level: int) -> None:
        # A move back that did not last was too early: the next one waits for longer.
        has_lasted = now_s - self._raised_s >= LASTING_SECONDS
        self._hold_s = HOLD_SECONDS if has_lasted else min(2 * self._hold_s, MAX_HOLD_SECONDS)
        self._move(now_s, level)

    def _raise(self, now_s: float) -> None:
        self._raised_s = now_s
        self._move(now_s, self.level - 1)

    def _move(self, now_s: float, level: int) -> None:
        # Answers of the old network must not judge the new one.
        self.level = level
        self.num_moves += 1
        self._moved_s = now_s
        self._calm_since_s = None
        self._answers.clear()

"""Times of the files of one export, measured in turns; files over a limit are measured again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raycomp.deployment.certificate import DeploymentLimit, Latency
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.latency import measure_by_length_ms
from raycomp.deployment.runtimes import TokenForward
from raycomp.encoder.device_table import describe_lengths

MEASURED_RUNS = 200
MEASURED_SECONDS = 6.0
"""Largest number of passes of each file at one batch size and length, and the time for all of them."""

TURN = 5
"""Passes of a file before the next file has its turn."""

REPEATS = 3
PAUSE_SECONDS = 10.0
"""How often files over a limit are measured again, and the time between: another program may end."""


HOPELESS = 10.0
"""Largest time that is measured again, as a multiple of the limit: other programs slow a file less."""

ALL = slice(None)
FIRST = slice(1)
OTHERS = slice(1, None)
"""Which batches and lengths are measured."""


@dataclass(frozen=True)
class FileTimes:
    """Times of one file, measured in turns with others.

    Attributes:
        latencies: One entry per batch and length.
        passes: Milliseconds of each pass, one array per batch and length: (passes,). Passes of one number
            of two files were made in the same turn.
    """

    latencies: tuple[Latency, ...]
    passes: tuple[np.ndarray, ...]

    def speedup_over(self, other: FileTimes, condition: int = 0) -> float:
        """Return the other file's time over that of this one, at one of the batches and lengths."""
        return paired_speedup(other.passes[condition], self.passes[condition])


def paired_speedup(reference: np.ndarray, own: np.ndarray) -> float:
    """Return the median ratio of two files' passes, both (passes,).

    Passes of one number were made in the same turn of all files: a slow moment slows both.
    """
    return float(np.median(reference / own))


def time_in_turns(
    forwards: Sequence[TokenForward],
    settings: FormatSettings,
    vocab_size: int,
    length: int,
    part: slice = ALL,
) -> list[FileTimes]:
    """Return the times of each forward function.

    Args:
        forwards: Functions of token ids, mask and token types.
        settings: Batches and lengths.
        vocab_size: Tokens are drawn below it.
        length: Length of the task's texts, where the settings name none.
        part: Which of the batches and lengths are measured: `ALL`, `FIRST` or `OTHERS`.
    """
    calls = [lambda ids, mask, run=forward: run(ids, mask, None) for forward in forwards]
    groups: list[tuple[int, ...]] = [(number,) for number in settings.lengths or (length,)]
    if settings.mixed_lengths:
        groups = [settings.mixed_lengths]
    conditions = [(batch, lengths) for batch in settings.batches for lengths in groups]
    latencies: list[list[Latency]] = [[] for _ in forwards]
    passes: list[list[np.ndarray]] = [[] for _ in forwards]

    for batch, lengths in conditions[part]:
        durations = measure_by_length_ms(
            calls,
            vocab_size,
            lengths,
            batch=batch,
            runs=MEASURED_RUNS,
            seconds=MEASURED_SECONDS,
            turn=TURN,
        )
        for number, by_length in enumerate(durations):
            mixed = list(itertools.chain(*by_length))
            longest = settings.longest or max(lengths)
            latency = Latency.of_durations(batch, longest, mixed)
            latency = replace(latency, lengths=describe_lengths(lengths, longest))
            # The slowest hundredth are the longest texts, and the sample lacks them.
            if longest > max(lengths):
                latency = replace(latency, p99_ms=None)
            latencies[number].append(latency)
            passes[number].append(np.array(mixed))

    return [FileTimes(tuple(own), tuple(times)) for own, times in zip(latencies, passes, strict=True)]


def time_within_limits(
    forwards: Sequence[TokenForward],
    settings: FormatSettings,
    vocab_size: int,
    length: int,
    reference: TokenForward | None = None,
    limited: int | None = None,
) -> tuple[list[FileTimes], float]:
    """Return what `time_in_turns` returns; while the limits are not met, all files are measured again.

    Other programs make passes longer, never shorter. Of the measurements of a file at the first batch and
    length, the one that is closest to the limits counts, up to `REPEATS` of them after the first. Ratios
    of files are those of the passes of all measurements.

    Args:
        forwards: As in `time_in_turns`.
        settings: Batches, lengths and limits.
        vocab_size: As in `time_in_turns`.
        length: As in `time_in_turns`.
        reference: Function of the file of `settings.reference`, which is timed in turns with the others.
        limited: Number of the file that must meet the limits; None: one of the files must.

    Returns:
        The times of `forwards`, and the slowdown: the reference's time over its expected time, by which
        limits on time grow. It is 1 without a reference.
    """
    timed = [*forwards, *([] if reference is None else [reference])]
    times = time_in_turns(timed, settings, vocab_size, length)
    judged = slice(len(forwards)) if limited is None else slice(limited, limited + 1)

    for _ in range(REPEATS):
        least = min(_excess(file.latencies[0], settings.limits) for file in times[judged])
        if least <= _slowdown(times, settings) or least > HOPELESS * _slowdown(times, settings):
            break
        time.sleep(PAUSE_SECONDS)
        again = time_in_turns(timed, settings, vocab_size, length, FIRST)
        times = [_merge(*pair, settings.limits) for pair in zip(times, again, strict=True)]

    return times[: len(forwards)], _slowdown(times, settings)


def _merge(first: FileTimes, again: FileTimes, limits: Sequence[DeploymentLimit]) -> FileTimes:
    """Return the times of a file whose first batch and length were measured again."""
    pair = (first.latencies[0], again.latencies[0])
    best = min(pair, key=lambda latency: _excess(latency, limits))
    passes = np.concatenate([first.passes[0], again.passes[0]])
    return FileTimes((best, *first.latencies[1:]), (passes, *first.passes[1:]))


def _slowdown(times: Sequence[FileTimes], settings: FormatSettings) -> float:
    """Return the time of the last file over its expected time, where it is a reference; else 1."""
    if settings.reference is None:
        return 1.0
    value = times[-1].latencies[0].value(settings.reference.quantity)
    assert value is not None  # nosec B101 - a reference has a budget's quantity, p50 or p95
    return value / settings.reference.expected_ms


def _excess(latency: Latency, limits: Sequence[DeploymentLimit]) -> float:
    """Return the largest used share of a limit on time."""
    shares = [0.0]
    for limit in limits:
        value = latency.value(limit.quantity) if limit.quantity in Latency.QUANTITIES else None
        if value is not None:
            shares.append(value / limit.limit)
    return max(shares)

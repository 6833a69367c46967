"""Times of the files of one export, measured in turns; files over a limit are measured again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from raycomp.deployment.certificate import DeploymentLimit, Latency
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.latency import measure_by_length_ms
from raycomp.deployment.runtimes import TokenForward

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


def time_in_turns(
    forwards: Sequence[TokenForward],
    settings: FormatSettings,
    vocab_size: int,
    length: int,
    *,
    first_only: bool = False,
) -> list[tuple[Latency, ...]]:
    """Return one tuple per batch and length, with the latency of each forward function.

    Args:
        forwards: Functions of token ids, mask and token types.
        settings: Batches and lengths.
        vocab_size: Tokens are drawn below it.
        length: Length of the task's texts, where the settings name none.
        first_only: Whether only the first batch and length are measured.
    """
    calls = [lambda ids, mask, run=forward: run(ids, mask, None) for forward in forwards]
    groups: list[tuple[int, ...]] = [(number,) for number in settings.lengths or (length,)]
    if settings.mixed_lengths:
        groups = [settings.mixed_lengths]
    conditions = [(batch, lengths) for batch in settings.batches for lengths in groups]
    results = []

    for batch, lengths in conditions[:1] if first_only else conditions:
        durations = measure_by_length_ms(
            calls,
            vocab_size,
            lengths,
            batch=batch,
            runs=MEASURED_RUNS,
            seconds=MEASURED_SECONDS,
            turn=TURN,
        )
        mixed = [list(itertools.chain(*by_length)) for by_length in durations]
        results.append(tuple(Latency.of_durations(batch, max(lengths), times) for times in mixed))

    return results


def time_within_limits(
    forwards: Sequence[TokenForward],
    settings: FormatSettings,
    vocab_size: int,
    length: int,
    reference: TokenForward | None = None,
) -> tuple[list[tuple[Latency, ...]], float]:
    """Return what `time_in_turns` returns; while no file meets the limits, all are measured again.

    Other programs make passes longer, never shorter. Of the measurements of a file at the first batch and
    length, the one with the shortest time counts, up to `REPEATS` of them after the first.

    Args:
        forwards: As in `time_in_turns`.
        settings: Batches, lengths and limits.
        vocab_size: As in `time_in_turns`.
        length: As in `time_in_turns`.
        reference: Function of the file of `settings.reference`, which is timed in turns with the others.

    Returns:
        The latencies of `forwards`, and the slowdown: the reference's time over its expected time, by
        which limits on time grow. It is 1 without a reference.
    """
    timed = [*forwards, *([] if reference is None else [reference])]
    latencies = time_in_turns(timed, settings, vocab_size, length)
    for _ in range(REPEATS):
        slowdown = _slowdown(latencies[0], settings)
        excess = _least_excess(latencies[0][: len(forwards)], settings.limits) / slowdown
        if excess <= 1 or excess > HOPELESS:
            break
        time.sleep(PAUSE_SECONDS)
        (again,) = time_in_turns(timed, settings, vocab_size, length, first_only=True)
        pairs = zip(latencies[0], again, strict=True)
        latencies[0] = tuple(min(pair, key=lambda latency: latency.p50_ms) for pair in pairs)
    slowdown = _slowdown(latencies[0], settings)
    return [entry[: len(forwards)] for entry in latencies], slowdown


def _slowdown(latencies: Sequence[Latency], settings: FormatSettings) -> float:
    """Return the time of the last file over its expected time, where it is a reference; else 1."""
    if settings.reference is None:
        return 1.0
    return latencies[-1].value(settings.reference.quantity) / settings.reference.expected_ms


def _least_excess(latencies: Sequence[Latency], limits: Sequence[DeploymentLimit]) -> float:
    """Return the largest used share of a limit on time, of the file that is closest to its limits."""
    times = [limit for limit in limits if limit.quantity in Latency.QUANTITIES]
    return min(
        max((file.value(limit.quantity) / limit.limit for limit in times), default=0.0)
        for file in latencies
    )

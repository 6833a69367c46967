"""Measured latency of networks and of deployed files: the one place where forward passes are timed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MIN_RUNS = 10
"""Fewest measured passes of a network, also where the time is over."""

Clock = Callable[[], float]
"""Function that returns seconds since some moment."""


def measure_latencies_ms(
    forwards: Sequence[Callable[[Tensor, Tensor], object]],
    vocab_size: int,
    *,
    length: int,
    batch: int = 1,
    runs: int = 40,
    warmup: int = 5,
    device: torch.device | None = None,
) -> list[float]:
    """Return the median milliseconds of one forward pass of each network.

    The networks take turns: other load of the machine slows all of them alike, and their ratios are more
    reliable than the figures.

    Args:
        forwards: Functions of input_ids and attention_mask, both (batch, length).
        vocab_size: Tokens are drawn below it.
        length: Tokens of a sequence, all real.
        batch: Sequences of a pass.
        runs: Measured passes of each network.
        warmup: Passes before them, which are not measured.
        device: Device of the networks; None is the CPU.
    """
    durations = measure_durations_ms(
        forwards, vocab_size, length=length, batch=batch, runs=runs, warmup=warmup, device=device
    )
    return [statistics.median(times) for times in durations]


@torch.inference_mode()
def measure_durations_ms(
    forwards: Sequence[Callable[[Tensor, Tensor], object]],
    vocab_size: int,
    *,
    length: int,
    batch: int = 1,
    runs: int = 40,
    warmup: int = 5,
    seconds: float = math.inf,
    turn: int = 1,
    device: torch.device | None = None,
    clock: Clock = time.perf_counter,
) -> list[list[float]]:
    """Return the milliseconds of each forward pass of each network; see `measure_latencies_ms`.

    Args:
        forwards: As in `measure_latencies_ms`.
        vocab_size: As in `measure_latencies_ms`.
        length: As in `measure_latencies_ms`.
        batch: As in `measure_latencies_ms`.
        runs: Largest number of measured passes of each network.
        warmup: Passes before them, which are not measured.
        seconds: Time after which no further turn begins, once each network has `MIN_RUNS`.
        turn: Measured passes of a network before the next one has its turn. Above 1, a turn begins with
            a pass that is not measured: threads of the last network's runtime may still wait actively.
        device: As in `measure_latencies_ms`.
        clock: Seconds that count. `time.thread_time` leaves out what other programs take of a CPU, and
            counts the calling thread only.
    """
    device = device or torch.device("cpu")
    # Random tokens: the time of a dense encoder does not depend on their values.
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab_size, (batch, length), generator=generator).to(device)
    mask = torch.ones_like(ids)
    durations: list[list[float]] = [[] for _ in forwards]
    end = time.perf_counter() + seconds

    for forward in forwards:
        for _ in range(warmup):
            forward(ids, mask)

    while len(durations[0]) < runs:
        if time.perf_counter() > end and len(durations[0]) >= MIN_RUNS:
            break
        for forward, times in zip(forwards, durations, strict=True):
            if turn > 1:
                forward(ids, mask)
            for _ in range(turn):
                times.append(_time_ms(forward, ids, mask, clock))

    return durations


def measure_by_length_ms(
    forwards: Sequence[Callable[[Tensor, Tensor], object]],
    vocab_size: int,
    lengths: Sequence[int],
    *,
    batch: int,
    runs: int,
    seconds: float,
    turn: int,
    clock: Clock = time.perf_counter,
) -> list[list[list[float]]]:
    """Return the milliseconds of each pass, by network and length: equally many for each length.

    Args:
        forwards: As in `measure_latencies_ms`.
        vocab_size: As in `measure_latencies_ms`.
        lengths: Tokens of a sequence, one after the other.
        batch: As in `measure_latencies_ms`.
        runs: Largest number of measured passes of each network at one length.
        seconds: Time of all lengths after which no further turn begins.
        turn: As in `measure_durations_ms`.
        clock: As in `measure_durations_ms`.
    """
    by_length = [
        measure_durations_ms(
            forwards,
            vocab_size,
            length=length,
            batch=batch,
            runs=runs,
            seconds=seconds / len(lengths),
            turn=turn,
            clock=clock,
        )
        for length in lengths
    ]
    # Long texts take more of the time. Each length counts the same in a percentile over all passes.
    count = min(len(durations[0]) for durations in by_length)
    return [[durations[i][:count] for durations in by_length] for i in range(len(forwards))]


def _time_ms(
    forward: Callable[[Tensor, Tensor], object], ids: Tensor, mask: Tensor, clock: Clock
) -> float:
    """Return the milliseconds of one forward pass."""
    # A GPU runs behind Python: the clock starts when it is idle, and stops when it is done.
    _wait(ids.device)
    began = clock()
    forward(ids, mask)
    _wait(ids.device)
    return (clock() - began) * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

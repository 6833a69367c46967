"""Networks with random weights as files of one runtime, timed in turns.

The time of a dense encoder depends neither on its weights nor on the rows of its word table: only its
configuration is needed, and the table that is timed has few rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raycomp.deployment.latency import Clock, measure_by_length_ms
from raycomp.deployment.network_files import NetworkFiles, cut_table, missing_rows_mb, random_model
from raycomp.deployment.openvino_files import measure_size_mb, open_forward
from raycomp.deployment.peak_memory import measure_peak_memory
from raycomp.deployment.profile import NetworkTimes
from raycomp.deployment.runtimes import TokenForward, model_forward, torch_threads
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.device_table import Conditions
from raycomp.encoder.layers import EncoderConfig
from raycomp.storage.machine_limits import free_memory

CHUNK_MB = 2000.0
"""Size of the files of the networks that are in memory at the same time, next to the reference."""

CHUNK_SHARE = 0.3
"""Largest share of the free memory for them. A session takes more memory than its file has bytes."""

RUNS = 200
SECONDS = 1.5
"""Largest number of passes of each network at one length, and the time for each network."""

PARTS = 4
SHORTEST_PART = 20
"""Largest number of parts of a network's passes, and fewest passes of a part."""

TURN = 5
"""Passes of a network before the next network has its turn."""


class NetworkBench:
    """Writes networks as files of a runtime, and times them on this machine.

    All networks in memory take turns with one reference network. The ratio of the median passes counts,
    times the reference's usual pass, as a certificate compares medians. With one thread, the CPU times of
    the fastest passes are compared: other programs only make them longer. The reference, and its usual
    pass, stay the same in all calls of `measure`. How much longer the slow passes take is each network's
    own, from the quietest part of its passes: a certificate repeats what another program has slowed, too.

    Args:
        config: Shapes of the full network.
        conditions: Where and how to measure.
        files: Files of the networks. Benches of other conditions can use them too.
        update: Function of networks opened and networks in all.
    """

    def __init__(
        self,
        config: EncoderConfig,
        conditions: Conditions,
        files: NetworkFiles,
        update: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._config = config
        self._conditions = conditions
        self._files = files
        self._update = update
        self._reference: TokenForward | None = None
        # Its median pass of each length, when the bench first timed it.
        self._usual_ms: list[float] | None = None

    def measure(
        self, archs: Sequence[Architecture], memory: Sequence[Architecture] = ()
    ) -> list[NetworkTimes]:
        """Return what was measured of each network; see `profile.Bench`."""
        results: list[NetworkTimes] = []

        with torch_threads(self._conditions.threads):
            if self._reference is None:
                self._reference, _ = self._open(archs[0], with_memory=False)
            while len(results) < len(archs):
                entries = self._open_chunk(archs, len(results), memory)
                durations = self._time([forward for forward, _ in entries])
                results += [
                    replace(entry, durations=own)
                    for (_, entry), own in zip(entries, durations, strict=True)
                ]

        return results

    def _open_chunk(
        self, archs: Sequence[Architecture], first: int, memory: Sequence[Architecture]
    ) -> list[tuple[TokenForward, NetworkTimes]]:
        """Return networks from a position on: as many as fit into memory, and at least one."""
        entries: list[tuple[TokenForward, NetworkTimes]] = []
        free = free_memory()
        largest_mb = CHUNK_MB if free is None else min(CHUNK_MB, CHUNK_SHARE * free / 1e6)
        loaded_mb = 0.0
        runtime = self._conditions.runtime

        for arch in archs[first:]:
            entries.append(self._open(arch, arch in memory))
            # Most of the time is that of writing files.
            self._update(first + len(entries), len(archs))
            loaded_mb += entries[-1][1].size_mb - missing_rows_mb(self._config, runtime, arch)
            if loaded_mb > largest_mb:
                break
        return entries

    def _open(self, arch: Architecture, with_memory: bool) -> tuple[TokenForward, NetworkTimes]:
        """Return a network's forward function, its size, and its memory where it is asked for.

        Both are those of the file with the whole word table. The table of the network that is timed has
        few rows: of a multilingual encoder, each file would have a gigabyte.
        """
        runtime = self._conditions.runtime
        memory_mb = None
        if with_memory:
            with self._files.open(runtime, arch, has_all_rows=True) as path:
                memory_mb = self._measure_memory(path)
        with self._files.open(runtime, arch) as path:
            missing_mb = missing_rows_mb(self._config, runtime, arch)
            figures = NetworkTimes((), measure_size_mb(path) + missing_mb, memory_mb)

            if runtime == "torch":
                return model_forward(random_model(cut_table(self._config), arch)), figures
            # A runtime reads or maps the whole file at once, so the file can go.
            return open_forward(path, self._conditions.threads), figures

    def _measure_memory(self, path: Path) -> float | None:
        library = self._conditions.library
        memory = measure_peak_memory(
            library,
            path.parent if library == "torch" else path,
            batch=self._conditions.batch,
            length=self._conditions.max_length,
            threads=self._conditions.threads,
        )
        return None if memory is None else memory["memory_mb"]

    def _time(self, forwards: Sequence[TokenForward]) -> list[list[list[float]]]:
        """Return the milliseconds of passes, by network and length, at the reference's usual speed."""
        assert self._reference is not None  # nosec B101 - `measure` writes it first
        # One thread computes in the calling thread, whose own time does not depend on other programs.
        clock = time.thread_time if self._conditions.threads == 1 else time.perf_counter
        if self._usual_ms is None:
            (passes,) = self._run_turns([self._reference], time.perf_counter)
            self._usual_ms = [statistics.median(times) for times in passes]
        reference, *networks = self._run_turns([self._reference, *forwards], clock)
        # The CPU time of a thread lacks the waiting that makes slow passes slow.
        walls = networks
        if clock is not time.perf_counter:
            walls = self._run_turns(forwards, time.perf_counter)

        # A short pass finds a quiet moment of a busy machine more often than a long one. The ratio of the
        # fastest passes of several threads would make small networks too fast.
        choose: Callable[[Sequence[float]], float] = statistics.median
        if clock is time.thread_time:
            choose = min
        medians_ms = [
            [
                choose(own) / choose(now) * usual
                for own, now, usual in zip(n, reference, self._usual_ms, strict=True)
            ]
            for n in networks
        ]
        return [
            [_scale(passes, median_ms) for passes, median_ms in zip(own, by_length, strict=True)]
            for own, by_length in zip(walls, medians_ms, strict=True)
        ]

    def _run_turns(self, forwards: Sequence[TokenForward], clock: Clock) -> list[list[list[float]]]:
        """Return the milliseconds of passes by a clock, by network and length."""
        calls = [lambda ids, mask, run=forward: run(ids, mask, None) for forward in forwards]
        return measure_by_length_ms(
            calls,
            cut_table(self._config).vocab_size,
            self._conditions.lengths,
            batch=self._conditions.batch,
            runs=RUNS,
            seconds=SECONDS * len(forwards),
            turn=TURN,
            clock=clock,
        )


def _scale(passes: Sequence[float], median_ms: float) -> list[float]:
    """Return the quietest passes in the same proportions with another median."""
    quiet = _quietest_part(passes)
    factor = median_ms / statistics.median(quiet)

    return [factor * time_ms for time_ms in quiet]


def _quietest_part(passes: Sequence[float]) -> Sequence[float]:
    """Return the successive passes with the smallest 95th percentile."""
    count = max(1, min(PARTS, len(passes) // SHORTEST_PART))
    size = len(passes) // count

    parts = [passes[i * size : (i + 1) * size] for i in range(count)]
    return min(parts, key=lambda part: float(np.percentile(part, 95)))

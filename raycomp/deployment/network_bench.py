"""Networks with random weights as files of one runtime, timed in turns.

The time of a dense encoder does not depend on its weights: only its configuration is needed.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raycomp.deployment.cpu import needs_reduced_range
from raycomp.deployment.format_settings import INT8_FILE, ONNX_FILE, WEIGHTS_FILE
from raycomp.deployment.latency import measure_by_length_ms
from raycomp.deployment.onnx_export import export_onnx
from raycomp.deployment.peak_memory import measure_peak_memory
from raycomp.deployment.profile import NetworkTimes
from raycomp.deployment.quantisation import Int8Form, find_operations, quantise
from raycomp.deployment.runtimes import (
    TokenForward,
    model_forward,
    open_session,
    session_forward,
    torch_threads,
)
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.device_table import Conditions
from raycomp.encoder.export import write_network
from raycomp.encoder.layers import EncoderConfig

CHUNK = 8
"""Networks that are in memory at the same time, next to the reference network."""

RUNS = 100
SECONDS = 12.0
"""Largest number of passes of each network at one length, and the time for a chunk of networks."""

SHORTEST_CHECK = 16
"""Fewest tokens of the longest text on which an exported file is compared with its network."""

TURN = 5
"""Passes of a network before the next network has its turn."""


class NetworkBench:
    """Writes networks as files of a runtime, and times them on this machine.

    Each chunk of networks is timed together with the first network of all. Where the machine is slower
    during a chunk, that network shows it, and the chunk's times are scaled.

    Args:
        config: Shapes of the full network.
        conditions: Where and how to measure.
        update: Function of networks done and networks in all.
    """

    def __init__(
        self,
        config: EncoderConfig,
        conditions: Conditions,
        update: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._config = config
        self._conditions = conditions
        self._update = update

    def measure(
        self, archs: Sequence[Architecture], memory: Sequence[Architecture] = ()
    ) -> list[NetworkTimes]:
        """Return what was measured of each network; see `profile.Bench`."""
        results: list[NetworkTimes] = []
        expected: list[float] | None = None

        with (
            tempfile.TemporaryDirectory() as folder,
            torch_threads(self._conditions.threads),
            torch.random.fork_rng(devices=[]),
        ):
            torch.manual_seed(0)
            # It stays in memory until the end: its time shows how fast the machine is during each chunk.
            reference, _ = self._write(archs[0], Path(folder, "reference"))
            for start in range(0, len(archs), CHUNK):
                chunk = archs[start : start + CHUNK]
                entries = [self._open(arch, Path(folder, "chunk"), arch in memory) for arch in chunk]
                times = self._time([reference, *(forward for forward, _ in entries)])

                medians = [statistics.median(durations) for durations in times[0]]
                expected = expected or medians
                drift = [now / first for now, first in zip(medians, expected, strict=True)]
                for (_, entry), durations in zip(entries, times[1:], strict=True):
                    results.append(replace(entry, durations=_remove_drift(durations, drift)))
                self._update(len(results), len(archs))

        return results

    def _open(
        self, arch: Architecture, folder: Path, with_memory: bool
    ) -> tuple[TokenForward, NetworkTimes]:
        """Return a network's forward function, its size and memory; its file is removed."""
        forward, path = self._write(arch, folder)
        figures = NetworkTimes((), path.stat().st_size / 1e6)
        if with_memory:
            figures = replace(figures, memory_mb=self._measure_memory(path))
        # The session has read the file; a profile of a large encoder would fill the disk.
        shutil.rmtree(folder)
        return forward, figures

    def _write(self, arch: Architecture, folder: Path) -> tuple[TokenForward, Path]:
        """Write a network as a file of the runtime; return its forward function and the file."""
        model = _random_model(self._config, arch)

        if self._conditions.runtime == "torch":
            write_network(model, folder)
            return model_forward(model), folder / WEIGHTS_FILE

        path = folder / ONNX_FILE
        path.parent.mkdir(parents=True)
        # The export compares the file with the model, and longer texts than those timed only take longer.
        longest = max(SHORTEST_CHECK, *self._conditions.lengths)
        export_onnx(model, path, min(self._config.max_positions, longest))

        # The first form that an export tries. If it loses too much there, the certificate shows it.
        if self._conditions.runtime == "onnxruntime-int8":
            target = folder / INT8_FILE
            form = Int8Form("dynamic", False, tuple(find_operations(path)))
            quantise(path, target, form, (), reduce_range=needs_reduced_range())
            path = target

        return session_forward(open_session(path, self._conditions.threads)), path

    def _measure_memory(self, path: Path) -> float | None:
        is_torch = self._conditions.runtime == "torch"
        memory = measure_peak_memory(
            "torch" if is_torch else "onnxruntime",
            path.parent if is_torch else path,
            batch=self._conditions.batch,
            length=max(self._conditions.lengths),
            threads=self._conditions.threads,
        )
        return None if memory is None else memory["memory_mb"]

    def _time(self, forwards: Sequence[TokenForward]) -> list[list[list[float]]]:
        """Return the milliseconds of each pass, by network and length."""
        calls = [lambda ids, mask, run=forward: run(ids, mask, None) for forward in forwards]
        return measure_by_length_ms(
            calls,
            self._config.vocab_size,
            self._conditions.lengths,
            batch=self._conditions.batch,
            runs=RUNS,
            seconds=SECONDS,
            turn=TURN,
        )


def _random_model(config: EncoderConfig, arch: Architecture) -> Any:
    """Return a network with random weights as it is exported, in evaluation mode."""
    # Imported here: transformers takes seconds to import.
    from raycomp.encoder.static_model import RaycompConfig, RaycompForSequenceClassification

    shapes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
    model = RaycompForSequenceClassification(RaycompConfig(**config.to_dict() | shapes)).eval()

    # New biases are 0 and new norms 1 in every layer. An ONNX file has equal tensors once: too small.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += config.initializer_range * torch.randn_like(parameter)

    return model


def _remove_drift(
    durations: Sequence[Sequence[float]], drift: Sequence[float]
) -> tuple[tuple[float, ...], ...]:
    """Return the times of a network at the speed that the machine had in the first chunk."""
    return tuple(
        tuple(time / slowdown for time in times) for times, slowdown in zip(durations, drift, strict=True)
    )

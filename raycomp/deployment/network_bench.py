"""Networks with random weights as files of one runtime, timed in turns.

The time of a dense encoder does not depend on its weights: only its configuration is needed.
"""

from __future__ import annotations

import shutil
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

CHUNK_MB = 2000.0
"""Size of the files of the networks that are in memory at the same time, next to the reference."""

RUNS = 200
SECONDS = 1.5
"""Largest number of passes of each network at one length, and the time for each network."""

SHORTEST_CHECK = 16
"""Fewest tokens of the longest text on which an exported file is compared with its network."""

TURN = 5
"""Passes of a network before the next network has its turn."""


class NetworkBench:
    """Writes networks as files of a runtime, and times them on this machine.

    All networks in memory take turns with one reference network. The ratio of the fastest passes counts,
    times the reference's own passes: other programs and a slower clock only make passes longer. The
    reference, and its passes, stay the same in all calls of `measure`.

    Args:
        config: Shapes of the full network.
        conditions: Where and how to measure.
        update: Function of networks written and networks in all.
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
        self._reference: TokenForward | None = None
        # Its passes of each length, when the bench first timed it.
        self._usual_ms: list[list[float]] | None = None

    def measure(
        self, archs: Sequence[Architecture], memory: Sequence[Architecture] = ()
    ) -> list[NetworkTimes]:
        """Return what was measured of each network; see `profile.Bench`."""
        results: list[NetworkTimes] = []

        with (
            tempfile.TemporaryDirectory() as folder,
            torch_threads(self._conditions.threads),
            torch.random.fork_rng(devices=[]),
        ):
            torch.manual_seed(0)
            if self._reference is None:
                self._reference, _ = self._write(archs[0], Path(folder, "reference"))
            while len(results) < len(archs):
                entries = self._open_chunk(archs, len(results), Path(folder, "chunk"), memory)
                durations = self._time([forward for forward, _ in entries])
                results += [
                    replace(entry, durations=own)
                    for (_, entry), own in zip(entries, durations, strict=True)
                ]

        return results

    def _open_chunk(
        self, archs: Sequence[Architecture], first: int, folder: Path, memory: Sequence[Architecture]
    ) -> list[tuple[TokenForward, NetworkTimes]]:
        """Return networks from a position on: as many as fit into `CHUNK_MB`, and at least one."""
        entries: list[tuple[TokenForward, NetworkTimes]] = []
        for arch in archs[first:]:
            entries.append(self._open(arch, folder, arch in memory))
            # Nearly all of the time is that of the exports.
            self._update(first + len(entries), len(archs))
            if sum(figures.size_mb for _, figures in entries) > CHUNK_MB:
                break
        return entries

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
        """Return the milliseconds of passes, by network and length, at the reference's usual speed."""
        assert self._reference is not None  # nosec B101 - `measure` writes it first
        in_turns = [self._reference, *forwards]
        calls = [lambda ids, mask, run=forward: run(ids, mask, None) for forward in in_turns]
        reference, *networks = measure_by_length_ms(
            calls,
            self._config.vocab_size,
            self._conditions.lengths,
            batch=self._conditions.batch,
            runs=RUNS,
            seconds=SECONDS * len(in_turns),
            turn=TURN,
        )
        self._usual_ms = self._usual_ms or reference

        # A mean or a median of a busy machine says more about the other programs than about the network.
        return [
            [
                [min(own) / min(now) * usual for usual in usual_ms]
                for own, now, usual_ms in zip(times, reference, self._usual_ms, strict=True)
            ]
            for times in networks
        ]


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

"""A device whose times are computed, not measured: tests on it are exact and do not read a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from raycomp.deployment.profile import NetworkTimes, choose_networks, measure_table
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.device_table import Conditions, DeviceTable, Layer, describe_encoder
from raycomp.search.space import SearchSpace

CONDITIONS = Conditions("onnxruntime", 1, 1, (16,))
SMALL_RUNTIME_MB = 40.0

LayerTime = Callable[[Layer], float]


def attention_time(layer: Layer) -> float:
    """Return milliseconds of a layer on a device where heads are slow and neurons are nearly free."""
    heads, ffn = layer
    return 0.1 + 1.0 * heads + 0.001 * ffn


class InventedBench:
    """Times networks by a formula: 1 ms, the layers, and 40% of the last layer.

    Args:
        layer_time: Milliseconds of a layer.
        bend: Milliseconds that each layer of a network of unequal layers takes longer: only whole
            networks show it.
        spread: Durations of one network, as factors.
        lengths: Tokens of the texts; the time is proportional to them.
    """

    def __init__(
        self,
        layer_time: LayerTime = attention_time,
        bend: float = 0.0,
        spread: Sequence[float] = (1.0,),
        lengths: Sequence[int] = (16,),
    ) -> None:
        self._layer_time = layer_time
        self._bend = bend
        self._spread = spread
        self._lengths = lengths
        self.measured: list[Architecture] = []

    def time(self, arch: Architecture) -> float:
        """Return the typical milliseconds of a network at 16 tokens; a rank of 100 takes 1 ms."""
        layers = list(zip(arch.heads, arch.ffn, strict=True))
        times = [self._layer_time(layer) for layer in layers]
        bend = self._bend * arch.depth if len(set(layers)) > 1 else 0.0
        return 1.0 + sum(times[:-1]) + 0.4 * times[-1] + bend + 0.01 * (arch.table.rank or 0)

    def size(self, arch: Architecture) -> float:
        """Return megabytes of a file."""
        return 2.0 + sum(0.5 * h + 0.01 * k for h, k in zip(arch.heads, arch.ffn, strict=True))

    def measure(
        self, archs: Sequence[Architecture], memory: Sequence[Architecture] = ()
    ) -> list[NetworkTimes]:
        """Return what a device would have measured."""
        self.measured += archs
        return [
            NetworkTimes(
                [[self.time(a) * n / 16 * factor for factor in self._spread] for n in self._lengths],
                self.size(a),
                SMALL_RUNTIME_MB + 3 * self.size(a) if a in memory else None,
            )
            for a in archs
        ]


def make_table(
    space: SearchSpace,
    shape: EncoderShape,
    bench: InventedBench | None = None,
    conditions: Conditions = CONDITIONS,
    machine: dict[str, object] | None = None,
    ranks: Sequence[int] = (),
) -> DeviceTable:
    """Return the table of a search space on an invented device."""
    rng = np.random.default_rng(0)
    networks = choose_networks(
        space.smallest(), space.largest(), lambda: space.sample_uniform(rng), count=8
    )
    layers = [(heads, ffn) for heads in space.heads for ffn in space.ffn]
    return measure_table(
        bench or InventedBench(),
        conditions,
        describe_encoder(shape),
        machine or {"model": "an invented CPU", "instruction_sets": []},
        layers,
        networks,
        networks[:4],
        ranks,
    )

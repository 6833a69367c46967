"""Measures the layers of a search space on this device; see `raycomp.encoder.device_table`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.encoder.device_table import (
    TIMES,
    Conditions,
    DeviceTable,
    Layer,
    LayerFigures,
    NetworkFigures,
)

ADDED_LAYERS = 3
"""Layers that a network of equal layers has more than that with one: their time is divided by it."""

PERCENTILES = dict(zip(TIMES, (50, 95), strict=True))


@dataclass(frozen=True)
class NetworkTimes:
    """What a bench measured of one network.

    Attributes:
        durations: Milliseconds of each pass, a list per length of the conditions.
        size_mb: Size of the file in MB.
        memory_mb: Peak memory of a process with the file; None where it was not measured.
    """

    durations: Sequence[Sequence[float]]
    size_mb: float
    memory_mb: float | None = None

    def typical(self) -> dict[str, float]:
        """Return percentiles over the lengths, each with its median time: noise does not count."""
        medians = [float(np.median(times)) for times in self.durations]
        return {"size_mb": self.size_mb, **_percentiles(medians)}

    def measured(self) -> dict[str, float]:
        """Return percentiles over all passes, as a certificate has them."""
        times = [time for by_length in self.durations for time in by_length]
        figures = {"size_mb": self.size_mb, **_percentiles(times)}
        return figures if self.memory_mb is None else {**figures, "memory_mb": self.memory_mb}


class Bench(Protocol):
    """Runs networks with random weights in one runtime; `network_bench.py` has the real one."""

    def measure(
        self, archs: Sequence[Architecture], memory: Sequence[Architecture] = ()
    ) -> list[NetworkTimes]:
        """Return what was measured of each network.

        Args:
            archs: Networks of any depth.
            memory: Those of them whose memory is measured too.
        """
        ...


def measure_table(
    bench: Bench,
    conditions: Conditions,
    encoder: Mapping[str, Any],
    machine: Mapping[str, Any],
    layers: Sequence[Layer],
    networks: Sequence[Architecture],
    memory: Sequence[Architecture] = (),
    ranks: Sequence[int] = (),
) -> DeviceTable:
    """Measure each layer and each rank once, and a few whole networks, in one sequence of turns.

    Args:
        bench: Where the networks run.
        conditions: Conditions of the bench.
        encoder: Shape of the full network; see `describe_encoder`.
        machine: CPU, threads and versions.
        layers: Heads and neurons of each kind of layer.
        networks: Whole networks, which the correction is fitted on.
        memory: Those of them whose memory is measured too.
        ranks: Ranks of word tables of the search space.
    """
    singles = [_equal_layers(layer, 1) for layer in layers]
    stacks = [_equal_layers(layer, 1 + ADDED_LAYERS) for layer in layers]
    # In the smallest network, the product of a word table of a rank is the largest share of the time.
    ranked = [replace(singles[0], table=WordTable(rank=rank)) for rank in ranks]
    # A whole network can be one of equal layers. It is then measured twice, and counts for both.
    times = bench.measure([*singles, *stacks, *ranked, *networks], memory)
    typical = [entry.typical() for entry in times]

    figures = {}
    for i, layer in enumerate(layers):
        figures[layer] = _layer_figures(typical[i], typical[len(layers) + i])

    first = 2 * len(layers)
    rank_figures = {
        rank: {name: max(0.0, own[name] - typical[0][name]) for name in TIMES}
        for rank, own in zip(ranks, typical[first : first + len(ranks)], strict=True)
    }

    measured = [entry.measured() for entry in times[first + len(ranks) :]]
    return DeviceTable(
        conditions,
        encoder,
        machine,
        figures,
        tuple(NetworkFigures(arch, m) for arch, m in zip(networks, measured, strict=True)),
        rank_figures,
    )


def _layer_figures(single: Mapping[str, float], stack: Mapping[str, float]) -> LayerFigures:
    """Return the figures of a layer, from networks with one and with `1 + ADDED_LAYERS` of it."""
    # On a busy machine four layers can seem faster than one.
    added = {name: max(0.0, (stack[name] - single[name]) / ADDED_LAYERS) for name in single}
    return LayerFigures(single, added)


def choose_networks(
    smallest: Architecture,
    largest: Architecture,
    draw: Callable[[], Architecture],
    count: int,
) -> list[Architecture]:
    """Return whole networks for the correction: the smallest, the largest and random ones.

    Args:
        smallest: Smallest network of the space.
        largest: Largest network of the space.
        draw: Function that draws a network of the space.
        count: Number of draws. Repeated networks count once.
    """
    return list(dict.fromkeys([smallest, largest, *(draw() for _ in range(count))]))


def _equal_layers(layer: Layer, depth: int) -> Architecture:
    heads, ffn = layer
    return Architecture(depth, (heads,) * depth, (ffn,) * depth)


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    return {name: float(np.percentile(times, percent)) for name, percent in PERCENTILES.items()}

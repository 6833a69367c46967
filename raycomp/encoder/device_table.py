"""Time, memory and file size of a network on one device, predicted from the figures of its layers.

`raycomp profile` measures networks of equal layers and a few whole networks; this module needs neither
torch nor a runtime. A network's time is that of its last layer with everything around it, plus that of
each layer below. A line through the whole networks corrects the sum:

    time = offset + scale * (single(last layer) + sum of added(layer))
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.errors import UserError

TIMES = ("latency_ms", "p95_ms")
"""Quantities that are times: the median and the 95th percentile."""

QUANTITIES = (*TIMES, "memory_mb", "size_mb")
"""Quantities that a table predicts; a certificate has the same names."""

LINE_NETWORKS = 3
"""Fewest whole networks for a line with an offset. With fewer of them it is a scale."""

Layer = tuple[int, int]
"""Heads and FFN neurons of a layer."""


@dataclass(frozen=True)
class Conditions:
    """Where and how a file is measured.

    Attributes:
        runtime: "onnxruntime", "onnxruntime-int8" or "torch".
        threads: Threads of one operation.
        batch: Texts of a forward pass.
        lengths: Tokens of the texts: one number, or a sample of them.
        device: "cpu".
        longest: Tokens of the longest text, where the sample lacks it.
    """

    runtime: str
    threads: int
    batch: int
    lengths: tuple[int, ...]
    device: str = "cpu"
    longest: int | None = None

    @property
    def max_length(self) -> int:
        """Tokens of the longest text."""
        return self.longest or max(self.lengths)

    def describe(self) -> str:
        """Return the conditions in words."""
        length = describe_lengths(self.lengths, self.max_length) or str(self.lengths[0])
        noun = "thread" if self.threads == 1 else "threads"
        return f"{self.runtime}, {self.threads} {noun}, batch {self.batch}, length {length}"


def describe_lengths(lengths: Sequence[int], longest: int) -> str:
    """Return a sample of several lengths in words, empty for one length.

    Two samples with the same limits have different hashes, because their times are not comparable.

    Args:
        lengths: The sample.
        longest: Tokens of the longest text.
    """
    if len(lengths) < 2:
        return ""
    numbers = ",".join(map(str, (*lengths, longest)))
    return f"{min(lengths)} to {longest} (sample {hashlib.sha256(numbers.encode()).hexdigest()[:6]})"


@dataclass(frozen=True)
class LayerFigures:
    """What was measured of one kind of layer, by quantity: `TIMES` and "size_mb".

    Attributes:
        single: Of a network with this layer only.
        added: That each further layer below the last one adds.
    """

    single: Mapping[str, float]
    added: Mapping[str, float]


@dataclass(frozen=True)
class NetworkFigures:
    """What was measured of one whole network, by quantity; "memory_mb" can be absent."""

    arch: Architecture
    measured: Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """A correction: `offset + scale * sum`."""

    offset: float
    scale: float

    def at(self, value: float) -> float:
        """Return the corrected value; a time or a size is not negative."""
        return max(0.0, self.offset + self.scale * value)


@dataclass(frozen=True)
class DeviceTable:
    """The figures of all layers of a search space, and of a few whole networks, on one device.

    Attributes:
        conditions: Where and how they were measured.
        encoder: Shape of the full network, as `describe_encoder` returns it.
        machine: CPU, threads and versions.
        layers: Figures of each kind of layer.
        networks: Figures of the whole networks.
    """

    conditions: Conditions
    encoder: Mapping[str, Any]
    machine: Mapping[str, Any]
    layers: Mapping[Layer, LayerFigures]
    networks: tuple[NetworkFigures, ...]

    def predict(self, quantity: str, arch: Architecture, added_mb: float = 0.0) -> float:
        """Return the predicted value of a quantity of `QUANTITIES`.

        Args:
            quantity: The quantity.
            arch: The network. Times of word tables hardly differ.
            added_mb: How much larger its word table is than the one that was measured.

        Raises:
            UserError: The table lacks a layer of the network, or its memory was not measured.
        """
        if quantity == "size_mb":
            return self._sum(quantity, arch) + added_mb
        # The weights are nearly all of the memory that differs between networks.
        if quantity == "memory_mb":
            return self.line(quantity).at(self._sum("size_mb", arch) + added_mb)
        return self.line(quantity).at(self._sum(quantity, arch))

    def line(self, quantity: str) -> Line:
        """Return the correction of a quantity, fitted on the whole networks.

        Raises:
            UserError: Memory was not measured.
        """
        if quantity not in self._lines:
            raise UserError(
                "The profile does not contain the memory of networks. Run `raycomp profile` again with a "
                "job that has a limit memory_mb, on Linux."
            )
        return self._lines[quantity]

    def errors(self, quantity: str) -> list[float]:
        """Return the relative error of each whole network, which the correction was fitted on."""
        return [
            abs(self.predict(quantity, network.arch) / network.measured[quantity] - 1)
            for network in self.networks
        ]

    @functools.cached_property
    def _lines(self) -> dict[str, Line]:
        lines = {}
        for quantity in (*TIMES, "memory_mb"):
            base = "size_mb" if quantity == "memory_mb" else quantity
            networks = [network for network in self.networks if quantity in network.measured]
            # The memory of networks is measured only for budgets that limit it.
            if networks:
                sums = [self._sum(base, network.arch) for network in networks]
                lines[quantity] = fit_line(sums, [network.measured[quantity] for network in networks])
        return lines

    @functools.cached_property
    def _sums(self) -> dict[str, tuple[dict[Layer, float], dict[Layer, float]]]:
        """Quantity -> figures of the last layer, and of each other layer, smoothed."""
        sums = {}
        for quantity in (*TIMES, "size_mb"):
            single = {layer: figures.single[quantity] for layer, figures in self.layers.items()}
            added = {layer: figures.added[quantity] for layer, figures in self.layers.items()}
            sums[quantity] = (make_monotone(single), make_monotone(added))
        return sums

    def _sum(self, quantity: str, arch: Architecture) -> float:
        single, added = self._sums[quantity]
        layers = list(zip(arch.heads, arch.ffn, strict=True))

        missing = [layer for layer in layers if layer not in single]
        if missing:
            heads, ffn = missing[0]
            raise UserError(
                f"The profile lacks a layer of {heads} heads and {ffn} neurons. Run `raycomp profile` "
                "again with this job."
            )

        # The last layer computes one token only, so its time has a column of its own.
        return single[layers[-1]] + sum(added[layer] for layer in layers[:-1])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return {
            "runtime": self.conditions.runtime,
            "device": self.conditions.device,
            "threads": self.conditions.threads,
            "batch": self.conditions.batch,
            "lengths": list(self.conditions.lengths),
            # Tables of earlier versions lack it.
            **({} if self.conditions.longest is None else {"longest": self.conditions.longest}),
            "machine": dict(self.machine),
            "encoder": dict(self.encoder),
            "layers": [
                {"heads": heads, "ffn": ffn, "single": dict(f.single), "added": dict(f.added)}
                for (heads, ffn), f in self.layers.items()
            ],
            "networks": [{"arch": n.arch.to_json(), **n.measured} for n in self.networks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeviceTable:
        """Read what `to_dict` returned, also after JSON.

        Raises:
            KeyError, TypeError, ValueError: It is not a table.
        """
        networks = []

        for entry in data["networks"]:
            measured = {name: float(entry[name]) for name in QUANTITIES if name in entry}
            networks.append(NetworkFigures(Architecture.from_json(entry["arch"]), measured))

        return cls(
            Conditions(
                str(data["runtime"]),
                int(data["threads"]),
                int(data["batch"]),
                tuple(int(length) for length in data["lengths"]),
                str(data["device"]),
                int(data["longest"]) if "longest" in data else None,
            ),
            dict(data["encoder"]),
            dict(data["machine"]),
            {
                (int(entry["heads"]), int(entry["ffn"])): LayerFigures(
                    _read_figures(entry["single"]), _read_figures(entry["added"])
                )
                for entry in data["layers"]
            },
            tuple(networks),
        )


def _read_figures(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(data[name]) for name in (*TIMES, "size_mb")}


def bytes_per_weight(runtime: str) -> int:
    """Return the bytes of a number of a word table in a runtime's file."""
    return 1 if runtime.endswith("int8") else 4


def describe_encoder(shape: EncoderShape) -> dict[str, Any]:
    """Return what the time of a network depends on, JSON-able; the number of outputs hardly counts."""
    data = shape.to_dict()
    del data["num_labels"]
    # A network is measured with its full word table.
    data.pop("task_vocab_size", None)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


def fit_line(sums: Sequence[float], measured: Sequence[float]) -> Line:
    """Return the line with the smallest squared relative error.

    With fewer than `LINE_NETWORKS` points, or where the line would fall, it passes through 0.
    """
    x = np.array(sums, np.float64)
    y = np.array(measured, np.float64)

    if len(x) >= LINE_NETWORKS:
        # Each row is divided by the measured value: small networks count as much as large ones.
        rows = np.stack([1 / y, x / y], axis=1)
        offset, scale = (float(v) for v in np.linalg.lstsq(rows, np.ones_like(y), rcond=None)[0])
        # A falling line would make larger networks look faster, and the search would never stop growing.
        if scale > 0:
            return Line(offset, scale)

    # Two points fix a line that a third one would refute.
    return Line(0.0, float(np.median(y / x)))


def make_monotone(values: Mapping[Layer, float]) -> dict[Layer, float]:
    """Return values that never fall with heads or neurons: the search relies on it.

    Each is the mean of the largest value of a smaller layer and the smallest value of a larger one.
    Values that are in order already stay as they are.
    """

    def envelope(layer: Layer, choose: Callable[[list[float]], float], sign: int) -> float:
        return choose(
            [
                value
                for (heads, ffn), value in values.items()
                if sign * (layer[0] - heads) >= 0 and sign * (layer[1] - ffn) >= 0
            ]
        )

    return {layer: (envelope(layer, max, 1) + envelope(layer, min, -1)) / 2 for layer in values}

"""Time, memory and file size of a network on one device, predicted from the figures of its layers.

`raycomp profile` measures networks of equal layers and a few whole networks; this module needs neither
torch nor a runtime. A network's time is that of its last layer with everything around it, plus that of
each layer below. A line through the whole networks corrects the sum. A word table of a rank adds the
product with its second matrix:

    time = offset + scale * (single(last layer) + sum of added(layer)) + added(rank)
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.device_lines import Line, fit_line, make_monotone
from raycomp.errors import UserError

TIMES = ("latency_ms", "p95_ms")
"""Quantities that are times: the median and the 95th percentile."""

QUANTITIES = (*TIMES, "memory_mb", "size_mb")
"""Quantities that a table predicts; a certificate has the same names."""

Layer = tuple[int, int]
"""Heads and FFN neurons of a layer."""


@dataclass(frozen=True)
class Conditions:
    """Where and how a file is measured.

    Attributes:
        runtime: "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8" or "torch".
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

    @property
    def library(self) -> str:
        """The runtime without its precision: "onnxruntime", "openvino" or "torch"."""
        return self.runtime.removesuffix("-int8")

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
class DeviceTable:
    """The figures of all layers of a search space, and of a few whole networks, on one device.

    Attributes:
        conditions: Where and how they were measured.
        encoder: Shape of the full network, as `describe_encoder` returns it.
        machine: CPU, threads and versions.
        layers: Figures of each kind of layer.
        networks: Figures of the whole networks.
        ranks: Milliseconds that a word table of each rank adds to the full one, by quantity of `TIMES`.
            It is empty in tables of earlier versions.
    """

    conditions: Conditions
    encoder: Mapping[str, Any]
    machine: Mapping[str, Any]
    layers: Mapping[Layer, LayerFigures]
    networks: tuple[NetworkFigures, ...]
    ranks: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def predict(self, quantity: str, arch: Architecture, added_mb: float = 0.0) -> float:
        """Return the predicted value of a quantity of `QUANTITIES`.

        Args:
            quantity: The quantity.
            arch: The network. The rows of its word table do not change its time.
            added_mb: How much larger its word table is than the one that was measured.

        Raises:
            UserError: The table lacks a layer or the rank of the network, or its memory was not measured.
        """
        if quantity == "size_mb":
            return self._sum(quantity, arch) + added_mb
        # The weights are nearly all of the memory that differs between networks.
        if quantity == "memory_mb":
            return self.line(quantity).at(self._sum("size_mb", arch) + added_mb)
        return self.line(quantity).at(self._sum(quantity, arch)) + self._rank_ms(quantity, arch)

    def _rank_ms(self, quantity: str, arch: Architecture) -> float:
        """Return the time that a word table of a rank adds; 0 where no rank was measured."""
        rank = arch.table.rank
        if rank is None or not self.ranks:
            return 0.0
        if rank not in self.ranks:
            raise UserError(
                f"The profile lacks a word table of rank {rank}. Run `raycomp profile` again with this "
                "job."
            )
        return self.ranks[rank][quantity]

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
        ranks = [{"rank": rank, **figures} for rank, figures in self.ranks.items()]
        # Tables of earlier versions lack both.
        optional: dict[str, Any] = {"longest": self.conditions.longest, "ranks": ranks}
        return {
            "runtime": self.conditions.runtime,
            "device": self.conditions.device,
            "threads": self.conditions.threads,
            "batch": self.conditions.batch,
            "lengths": list(self.conditions.lengths),
            "machine": dict(self.machine),
            "encoder": dict(self.encoder),
            "layers": [
                {"heads": heads, "ffn": ffn, "single": dict(f.single), "added": dict(f.added)}
                for (heads, ffn), f in self.layers.items()
            ],
            "networks": [{"arch": n.arch.to_json(), **n.measured} for n in self.networks],
            **{name: value for name, value in optional.items() if value},
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
            {
                int(entry["rank"]): {name: float(entry[name]) for name in TIMES}
                for entry in data.get("ranks", [])
            },
        )


def _read_figures(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(data[name]) for name in (*TIMES, "size_mb")}


def word_table_mb(runtime: str, num_weights: float, num_rows: int) -> float:
    """Return the size of a word table in a runtime's file, in MB (10^6 bytes).

    Args:
        runtime: Runtime of a budget.
        num_weights: Numbers of the table; negative where the difference to a larger one is asked for.
        num_rows: Its rows, or the difference.
    """
    bytes_per_weight = 1 if runtime.endswith("-int8") else 4
    # OpenVINO has a scale in fp32 for each row, and ONNX Runtime one for the whole table.
    bytes_per_row = 4 if runtime == "openvino-int8" else 0
    return (bytes_per_weight * num_weights + bytes_per_row * num_rows) / 1e6


def describe_encoder(shape: EncoderShape) -> dict[str, Any]:
    """Return what the time of a network depends on, JSON-able; the number of outputs hardly counts."""
    data = shape.to_dict()
    del data["num_labels"]
    # A network is measured with its full word table.
    data.pop("task_vocab_size", None)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

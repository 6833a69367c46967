"""Networks with random weights are written and timed in turns; no test here depends on a clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.deployment import network_bench, network_files, onnx_export
from raycomp.deployment.network_bench import NetworkBench
from raycomp.deployment.network_files import NetworkFiles, random_model
from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.encoder.device_table import Conditions
from raycomp.encoder.export import write_network
from raycomp.encoder.layers import EncoderConfig
from raycomp.errors import UserError

CONFIG = EncoderConfig(
    vocab_size=30, hidden_size=16, embedding_size=16, head_size=8, layer_heads=(2,), layer_ffn=(32,),
    max_position_embeddings=20,
)  # fmt: skip
ARCHS = [Architecture(d, (h,) * d, (32,) * d) for d in (1, 2, 3, 4, 5) for h in (1, 2)]


def invent_clock(monkeypatch: pytest.MonkeyPatch, *slow: float) -> list[int]:
    """Let a token take the reference 2 ms and each other network 3 ms, on a machine that drifts.

    A thread's own time is a hundredth of it: it counts in ratios only.

    Args:
        slow: Slowness of each pass of the first chunk. In the second chunk, all passes are twice as slow.

    Returns:
        The number of forward functions of each chunk.
    """
    chunks: list[int] = []
    clocks: list[Any] = []

    def measure(
        forwards: Sequence[Any], vocab_size: int, lengths: Sequence[int], clock: Any, **_: Any
    ) -> Any:
        clocks.append(clock)
        if len(clocks) == 1:
            assert clock is time.perf_counter, "the reference's own passes are those of a wall clock"
            return [[[2.0 * length * factor for factor in slow] for length in lengths]]

        unit = 0.01 if clock is time.thread_time else 1.0
        # A run by the CPU time of the thread is followed by one of the networks by a wall clock.
        has_reference = clocks[-2:] != [time.thread_time, time.perf_counter]
        if has_reference:
            chunks.append(len(forwards))
        # Each network meets the slow moments in another order.
        orders = [[*slow[i % len(slow) :], *slow[: i % len(slow)]] for i in range(len(forwards))]
        return [
            [
                [
                    unit * (2.0 if has_reference and i == 0 else 3.0) * length * len(chunks) * factor
                    for factor in order
                ]
                for length in lengths
            ]
            for i, order in enumerate(orders)
        ]

    monkeypatch.setattr(network_bench, "measure_by_length_ms", measure)
    return chunks


@pytest.mark.parametrize("threads", [1, 2])
def test_times_are_ratios_to_the_reference_whatever_the_machine_does(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    chunks = invent_clock(monkeypatch, 1.0, 7.0, 1.2)
    monkeypatch.setattr(network_bench, "CHUNK_MB", 0.05)
    with NetworkFiles(CONFIG, longest=9) as files:
        bench = NetworkBench(CONFIG, Conditions("torch", threads, 1, (4, 9)), files)
        times = bench.measure(ARCHS)
        assert len(chunks) > 1
        assert sum(chunks) == len(ARCHS) + len(chunks), "the reference is in every chunk"
        # Later networks have the same unit, although the machine is slower still.
        (later,) = bench.measure(ARCHS[:1])

    # 1.5 times the reference's usual pass in the first chunk, in the network's own proportions.
    for entry in times:
        assert sorted(entry.durations[0]) == pytest.approx([12.0, 14.4, 84.0])
        assert sorted(entry.durations[1]) == pytest.approx([27.0, 32.4, 189.0])
    assert sorted(later.durations[1]) == pytest.approx([27.0, 32.4, 189.0])


@pytest.mark.parametrize("threads", [1, 2])
def test_each_network_has_its_own_slow_passes(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """The smallest network is the reference, and its slow passes are relatively the slowest."""
    sizes = {1: (1.0, 3.0), 2: (10.0, 12.0)}

    def measure(forwards: Sequence[Any], *_: Any, clock: Any, **__: Any) -> Any:
        # CPU time does not show the slow passes.
        is_wall = clock is time.perf_counter
        tails = [sizes[forward(None, None)] for forward in forwards]
        return [[[most] * 9 + [slow if is_wall else most]] for most, slow in tails]

    monkeypatch.setattr(network_bench, "measure_by_length_ms", measure)
    monkeypatch.setattr(network_bench, "model_forward", lambda model: lambda *_: model.config.depth)
    monkeypatch.setattr(network_bench, "random_model", lambda _, arch: SimpleNamespace(config=arch))
    with NetworkFiles(CONFIG, longest=4) as files:
        bench = NetworkBench(CONFIG, Conditions("torch", threads, 1, (4,)), files)
        small, large = bench.measure([ARCHS[0], ARCHS[2]])
    assert small.durations == [pytest.approx([1.0] * 9 + [3.0])]
    assert large.durations == [pytest.approx([10.0] * 9 + [12.0])]
    assert large.typical()["latency_ms"] == pytest.approx(10.0)


def test_a_small_network_that_finds_quiet_moments_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program doubles all passes, except a few of the small network."""
    passes = {1: [1.0] + [2.0] * 9, 3: [20.0] * 10}

    def measure(forwards: Sequence[Any], *_: Any, **__: Any) -> Any:
        return [[passes[forward(None, None)]] for forward in forwards]

    monkeypatch.setattr(network_bench, "measure_by_length_ms", measure)
    monkeypatch.setattr(network_bench, "model_forward", lambda model: lambda *_: model.config.depth)
    monkeypatch.setattr(network_bench, "random_model", lambda _, arch: SimpleNamespace(config=arch))
    with NetworkFiles(CONFIG, longest=4) as files:
        bench = NetworkBench(CONFIG, Conditions("torch", 2, 1, (4,)), files)
        small, large = bench.measure([Architecture(d, (1,) * d, (32,) * d) for d in (1, 3)])
    assert large.typical()["latency_ms"] / small.typical()["latency_ms"] == pytest.approx(10.0)


def test_files_have_the_weights_of_their_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    invent_clock(monkeypatch, 1.0)
    done: list[int] = []
    costs = CostModel(EncoderShape.from_config(CONFIG), 4)
    with NetworkFiles(CONFIG, longest=4) as files:
        conditions = Conditions("torch", 1, 1, (4,))
        bench = NetworkBench(CONFIG, conditions, files, lambda count, total: done.append(count))
        times = bench.measure(ARCHS[:3])
    for arch, entry in zip(ARCHS[:3], times, strict=True):
        # safetensors writes the shapes too, a few kB.
        weights = 4 * costs.cost("params", arch) / 1e6
        assert weights < entry.size_mb < weights + 0.02
        assert entry.memory_mb is None
    assert done == [1, 2, 3]


@pytest.mark.parametrize("stored_mb", [4000.0, 0.0])
def test_benches_share_files_as_far_as_they_fit_on_disk(
    monkeypatch: pytest.MonkeyPatch, stored_mb: float
) -> None:
    written: list[Architecture] = []

    def write(model: Any, folder: Any) -> None:
        written.append(model.config.layer_heads)
        write_network(model, folder)

    monkeypatch.setattr(network_files, "write_network", write)
    monkeypatch.setattr(network_files, "STORED_MB", stored_mb)
    invent_clock(monkeypatch, 1.0)
    with NetworkFiles(CONFIG, longest=4) as files:
        folder = Path(files._folder.name)
        sizes = [
            [entry.size_mb for entry in NetworkBench(CONFIG, conditions, files).measure(ARCHS[:3])]
            for conditions in (Conditions("torch", 1, 1, (4,)), Conditions("torch", 2, 3, (2,)))
        ]
        num_kept = len(list(folder.iterdir()))

    assert sizes[0] == sizes[1]
    assert num_kept == (3 if stored_mb else 0)
    # Without room, the reference and all networks are written for each bench.
    assert len(written) == (3 if stored_mb else 8)
    assert not folder.exists()


def test_no_two_layers_share_their_weights() -> None:
    """An ONNX file has equal tensors once, and trained layers have none."""
    model = random_model(CONFIG, ARCHS[-1])
    tensors = {tuple(parameter.flatten().tolist()) for parameter in model.parameters()}
    assert len(tensors) == len(list(model.parameters()))


def test_each_length_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from raycomp.deployment import latency

    def measure(forwards: Sequence[Any], vocab_size: int, *, length: int, **_: Any) -> list[list[float]]:
        # A time limit leaves fewer passes of long texts.
        return [[float(length)] * (40 // length) for _ in forwards]

    monkeypatch.setattr(latency, "measure_durations_ms", measure)
    times = latency.measure_by_length_ms([print, print], 30, (2, 8), batch=1, runs=40, seconds=1, turn=1)
    assert times == [[[2.0] * 5, [8.0] * 5]] * 2


def test_networks_are_timed_with_few_rows_of_their_word_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of XLM-R, each of thirty files would otherwise have 0.8 GB."""
    monkeypatch.setattr(network_files, "TABLE_ROWS", 6)
    invent_clock(monkeypatch, 1.0)
    config = replace(CONFIG, vocab_size=30_000, pad_token_id=9)
    conditions = Conditions("torch", 1, 1, (4,), longest=7)
    costs = CostModel(EncoderShape.from_config(config), 4)
    measured: list[tuple[float, int]] = []

    def measure(kind: str, path: Path, *, length: int, **_: Any) -> dict[str, float]:
        measured.append(((path / "model.safetensors").stat().st_size / 1e6, length))
        return {"memory_mb": 50.0}

    monkeypatch.setattr(network_bench, "measure_peak_memory", measure)
    with NetworkFiles(config, longest=7) as files:
        times = NetworkBench(config, conditions, files).measure(ARCHS[:2], ARCHS[:1])
        written = sum(file.stat().st_size for file in Path(files._folder.name).rglob("*.safetensors"))

    weights = [4 * costs.cost("params", arch) / 1e6 for arch in ARCHS[:2]]
    assert [entry.size_mb for entry in times] == pytest.approx(weights, abs=0.02)
    # Memory needs the whole table, and the longest text.
    assert [entry.memory_mb for entry in times] == [50.0, None]
    assert measured == [(pytest.approx(weights[0], abs=0.02), 7)]
    assert written / 1e6 < weights[0] + 0.2


def test_few_networks_are_in_memory_where_little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = invent_clock(monkeypatch, 1.0)
    monkeypatch.setattr(network_bench, "free_memory", lambda: 1000)
    with NetworkFiles(CONFIG, longest=4) as files:
        NetworkBench(CONFIG, Conditions("torch", 1, 1, (4,)), files).measure(ARCHS[:3])
    assert chunks == [2, 2, 2], "the reference and one network"


def test_a_network_that_is_too_large_for_an_onnx_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_ONNX_MB", 0.001)
    with pytest.raises(UserError, match=r"An ONNX file has at most 0 MB.*smaller model or word table"):
        onnx_export.export_onnx(random_model(CONFIG, ARCHS[0]), tmp_path / "model.onnx", 20)


def test_a_network_of_a_rank_has_two_matrices_of_words() -> None:
    arch = replace(ARCHS[0], table=WordTable(rank=3))
    shapes = {tuple(parameter.shape) for parameter in random_model(CONFIG, arch).parameters()}
    assert {(30, 3), (16, 3)} <= shapes
    assert (30, 16) not in shapes


def test_a_program_that_slows_most_of_the_passes_does_not_lengthen_the_tail() -> None:
    quiet = [1.0] * 40 + [2.0] * 10
    busy = [1.0] * 25 + [30.0] * 25
    assert network_bench._quietest_part([*busy, *busy, *quiet, *busy]) == quiet
    # Too few passes for two parts.
    assert network_bench._quietest_part(busy[11:39]) == busy[11:39]

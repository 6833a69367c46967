"""Layers that are measured by themselves predict whole networks; no test here reads a clock."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.device_lines import fit_line, make_monotone
from raycomp.encoder.device_table import DeviceTable
from raycomp.errors import UserError
from raycomp.search.space import SearchSpace
from tests.unit.invented_device import InventedBench, make_table

SHAPE = EncoderShape(
    vocab_size=100, hidden_size=32, embedding_size=32, head_size=8, layer_heads=(4,) * 4,
    layer_ffn=(64,) * 4, max_position_embeddings=32, type_vocab_size=2, num_labels=2,
)  # fmt: skip
SPACE = SearchSpace(4, (1, 2, 3, 4), (0, 2, 4), (16, 32, 64))


def draw(count: int) -> list[Architecture]:
    rng = np.random.default_rng(7)
    return [SPACE.sample_uniform(rng) for _ in range(count)]


def test_the_sum_of_the_layers_predicts_networks_that_were_not_measured() -> None:
    bench = InventedBench()
    table = make_table(SPACE, SHAPE, bench)
    for arch in draw(40):
        assert table.predict("latency_ms", arch) == pytest.approx(bench.time(arch))
        assert table.predict("size_mb", arch) == pytest.approx(bench.size(arch))
        assert table.predict("memory_mb", arch) == pytest.approx(40 + 3 * bench.size(arch))


def test_each_layer_is_measured_once_and_a_few_whole_networks() -> None:
    bench = InventedBench()
    table = make_table(SPACE, SHAPE, bench)
    assert len(bench.measured) == 2 * 9 + len(table.networks)
    assert len(table.networks) >= 9


def test_whole_networks_correct_what_the_sum_of_the_layers_misses() -> None:
    bench = InventedBench(bend=0.8)
    table = make_table(SPACE, SHAPE, bench)
    networks = draw(60)
    corrected = [abs(table.predict("latency_ms", a) / bench.time(a) - 1) for a in networks]
    sums = [abs(table._sum("latency_ms", a) / bench.time(a) - 1) for a in networks]
    assert np.median(corrected) < 0.5 * np.median(sums)


def test_the_95th_percentile_has_a_correction_of_its_own() -> None:
    bench = InventedBench(spread=(1.0,) * 90 + (1.5,) * 10)
    table = make_table(SPACE, SHAPE, bench)
    for arch in draw(10):
        assert table.predict("latency_ms", arch) == pytest.approx(bench.time(arch))
        assert table.predict("p95_ms", arch) == pytest.approx(1.5 * bench.time(arch))


def test_texts_of_several_lengths_have_percentiles_over_the_lengths() -> None:
    lengths = tuple(range(4, 24))
    bench = InventedBench(lengths=lengths)
    table = make_table(SPACE, SHAPE, bench)
    arch = draw(1)[0]
    times = [bench.time(arch) * length / 16 for length in lengths]
    assert table.predict("latency_ms", arch) == pytest.approx(np.percentile(times, 50))
    assert table.predict("p95_ms", arch) == pytest.approx(np.percentile(times, 95))


def test_noise_between_layers_leaves_a_cost_that_grows_with_every_dimension() -> None:
    rng = np.random.default_rng(3)
    noise = {(h, k): rng.uniform(0.7, 1.3) for h in SPACE.heads for k in SPACE.ffn}
    bench = InventedBench(lambda layer: (1 + 0.1 * layer[0] + 0.001 * layer[1]) * noise[layer])
    table = make_table(SPACE, SHAPE, bench)
    for arch in draw(40):
        for larger in (
            Architecture(arch.depth, (4, *arch.heads[1:]), arch.ffn),
            Architecture(arch.depth, arch.heads, (*arch.ffn[:-1], 64)),
        ):
            assert table.predict("latency_ms", larger) >= table.predict("latency_ms", arch) - 1e-9


def test_values_in_order_stay_and_others_meet_in_the_middle() -> None:
    ordered = {(1, 1): 1.0, (1, 2): 2.0, (2, 1): 1.5, (2, 2): 3.0}
    assert make_monotone(ordered) == ordered
    assert make_monotone({(1, 1): 2.0, (1, 2): 1.0}) == {(1, 1): 1.5, (1, 2): 1.5}


def test_the_line_has_an_offset_and_never_falls() -> None:
    line = fit_line([1, 2, 3, 4], [3, 5, 7, 9])
    assert (line.offset, line.scale) == (pytest.approx(1), pytest.approx(2))
    falling = fit_line([1, 2, 3], [3, 2, 1])
    assert (falling.offset, falling.scale > 0) == (0.0, True)
    two_points = fit_line([1, 2], [2, 4])
    assert (two_points.offset, two_points.scale) == (0.0, 2.0)


def test_a_table_survives_json() -> None:
    table = make_table(SPACE, SHAPE)
    again = DeviceTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.to_dict() == table.to_dict()
    assert again.predict("p95_ms", SPACE.largest()) == table.predict("p95_ms", SPACE.largest())


def test_a_layer_that_was_not_measured_is_named() -> None:
    with pytest.raises(UserError, match=r"lacks a layer of 3 heads and 64 neurons.*raycomp profile"):
        make_table(SPACE, SHAPE).predict("latency_ms", Architecture(1, (3,), (64,)))


def test_memory_that_was_not_measured_is_named() -> None:
    data = make_table(SPACE, SHAPE).to_dict()
    for network in data["networks"]:
        network.pop("memory_mb", None)
    with pytest.raises(UserError, match="does not contain the memory"):
        DeviceTable.from_dict(data).predict("memory_mb", SPACE.largest())


def test_a_rank_adds_the_time_of_its_product() -> None:
    bench = InventedBench()
    table = make_table(SPACE, SHAPE, bench, ranks=(8, 16))
    again = DeviceTable.from_dict(json.loads(json.dumps(table.to_dict())))
    for arch in draw(5):
        ranked = replace(arch, table=WordTable(is_cut=True, rank=16))
        assert bench.time(ranked) == pytest.approx(bench.time(arch) + 0.16)
        for quantity in ("latency_ms", "p95_ms"):
            assert again.predict(quantity, ranked) == pytest.approx(bench.time(ranked))
            assert again.predict(quantity, arch) == pytest.approx(bench.time(arch))
    with pytest.raises(UserError, match=r"lacks a word table of rank 4.*raycomp profile"):
        table.predict("latency_ms", replace(arch, table=WordTable(rank=4)))


def test_a_table_of_an_earlier_version_has_no_ranks() -> None:
    table = make_table(SPACE, SHAPE)
    assert "ranks" not in table.to_dict()
    arch = draw(1)[0]
    ranked = replace(arch, table=WordTable(rank=16))
    assert table.predict("latency_ms", ranked) == table.predict("latency_ms", arch)

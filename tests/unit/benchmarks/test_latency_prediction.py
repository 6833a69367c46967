"""Predictions that a profile allows, on a device whose times are a formula; no test reads a clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from benchmarks import latency_prediction
from benchmarks.latency_prediction import LAYERS, fit_predictions, format_errors
from raycomp.deployment import timing
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.encoder.device_table import Conditions
from raycomp.search.space import SearchSpace
from tests.unit.invented_device import InventedBench, make_table

SHAPE = EncoderShape(
    vocab_size=100, hidden_size=32, embedding_size=32, head_size=8, layer_heads=(4,) * 4,
    layer_ffn=(64,) * 4, max_position_embeddings=32, type_vocab_size=2, num_labels=2,
)  # fmt: skip
SPACE = SearchSpace(4, (1, 2, 3, 4), (0, 2, 4), (16, 32, 64))
RNG = np.random.default_rng(7)
NETWORKS: list[Architecture] = [SPACE.sample_uniform(RNG) for _ in range(30)]


def measure_errors(bench: InventedBench) -> dict[str, float]:
    """Return the median relative error of each prediction."""
    table = make_table(SPACE, SHAPE, bench)
    predictions = fit_predictions(table, "latency_ms", CostModel(SHAPE, 16))
    return {
        name: float(np.median([abs(predict(arch) / bench.time(arch) - 1) for arch in NETWORKS]))
        for name, predict in predictions.items()
    }


def test_layers_predict_better_than_flops() -> None:
    errors = measure_errors(InventedBench())
    assert errors[LAYERS] == pytest.approx(0)
    assert errors["layers, depth"] == pytest.approx(0, abs=1e-9)
    assert 0.01 < errors["whole networks"] < errors["FLOPs"]


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "holds"), (1.2, "does not hold")])
def test_the_table_has_a_row_per_prediction_and_a_verdict(slower: float, verdict: str) -> None:
    bench = InventedBench()
    predictions = fit_predictions(make_table(SPACE, SHAPE, bench), "latency_ms", CostModel(SHAPE, 16))
    lines = format_errors(predictions, NETWORKS, [slower * bench.time(arch) for arch in NETWORKS])
    assert [line.split(" | ")[0] for line in lines[2:-1]] == [f"| {name}" for name in predictions]
    assert lines[-1].endswith(f"percentile): {verdict}")


def test_networks_are_timed_as_an_export_times_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Architecture] = []
    groups: list[int] = []

    class Files:
        @contextmanager
        def open(self, runtime: str, arch: Architecture, *, has_all_rows: bool) -> Iterator[Architecture]:
            assert has_all_rows, "an exported file has its whole word table"
            opened.append(arch)
            yield arch

    def measure(forwards: Any, *_: Any, batch: int, **__: Any) -> list[list[list[float]]]:
        assert batch == 8
        group = opened[sum(groups) :]
        groups.append(len(forwards))
        return [[[InventedBench().time(arch)] * 20] for arch in group]

    monkeypatch.setattr(latency_prediction, "open_session", lambda path, threads: path)
    monkeypatch.setattr(latency_prediction, "session_forward", lambda session: session)
    monkeypatch.setattr(timing, "measure_by_length_ms", measure)
    files: Any = Files()
    conditions = Conditions("onnxruntime", 2, 8, (16,))
    times = latency_prediction.time_as_certificates(files, NETWORKS[:7], conditions, 100, "p95_ms")
    assert times == pytest.approx([InventedBench().time(arch) for arch in NETWORKS[:7]])
    assert (opened, groups) == (NETWORKS[:7], [3, 3, 1])

"""What OpenVINO and NNCF are asked for. Both are replaced here; tests/conformance runs them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raycomp.deployment import network_bench, network_files, openvino_int8
from raycomp.deployment.int8_steps import Attempt, Judgement, describe_attempts
from raycomp.deployment.network_bench import NetworkBench
from raycomp.deployment.network_files import TABLE_ROWS, NetworkFiles, missing_rows_mb
from raycomp.deployment.openvino_files import missing_openvino_packages, quantise_openvino
from raycomp.deployment.openvino_int8 import write_openvino_int8
from raycomp.deployment.quantisation import Operation
from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.encoder.device_table import Conditions
from raycomp.errors import UserError
from tests.unit.deployment.test_network_bench import CONFIG

GOOD = Judgement(0.004, 1.5)
INACCURATE = Judgement(0.006, 1.5)
SLOW = Judgement(0.006, 0.9)
ENCODER = [Operation("words", "Gather"), *(Operation(f"product{i}", "MatMul") for i in range(24))]
CNN = [Operation("words", "Gather"), Operation("conv", "Conv"), Operation("head", "Gemm")]


def write_pair(source: Path, target: Path, *_: Any, **__: Any) -> None:
    """Write a file and its weights, 30 bytes in all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("x" * 10)
    target.with_suffix(".bin").write_text("x" * 20)


def try_forms(
    operations: list[Operation],
    judgements: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: Callable[..., Any] | None = None,
) -> tuple[list[Attempt], list[tuple[str, ...]]]:
    """Return the attempts, and what each of them left in fp32; an exception is one of NNCF."""
    left = iter(judgements)
    in_fp32: list[tuple[str, ...]] = []

    def quantise(source: Path, target: Path, rows: Any, names: tuple[str, ...], **_: Any) -> None:
        write_pair(source, target)
        in_fp32.append(names)

    def judge(path: Path) -> Judgement:
        judgement = next(left)
        if isinstance(judgement, Exception):
            raise judgement
        return judgement

    def by_sixes(source: Path, operations: list[Operation], *_: Any, **__: Any) -> list[Any]:
        return [tuple(operations[i : i + 6]) for i in range(19, 0, -6)]

    monkeypatch.setattr(openvino_int8, "quantise_openvino", quantise)
    monkeypatch.setattr(openvino_int8, "find_operations", lambda path: operations)
    monkeypatch.setattr(openvino_int8, "rank_groups", rank or by_sixes)
    target = tmp_path / "openvino" / "int8.xml"
    sources = (tmp_path / "model.onnx", tmp_path / "model.xml")
    attempts = write_openvino_int8(sources, target, [], judge, reduce_range=False)
    assert next(left, None) is None
    is_taken = not attempts[-1].problem
    assert (target.exists(), target.with_suffix(".bin").exists()) == (is_taken, is_taken)
    return attempts, in_fp32


def test_lost_accuracy_keeps_the_most_sensitive_products_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, in_fp32 = try_forms(ENCODER, [INACCURATE, INACCURATE, GOOD], tmp_path, monkeypatch)
    last = [f"product{i}" for i in (*range(18, 24), *range(12, 18))]
    assert in_fp32 == [(), tuple(last[:6]), tuple(last)]
    assert [attempt.form for attempt in attempts] == [
        "OpenVINO",
        "OpenVINO, 6 most sensitive products in fp32",
        "OpenVINO, 12 most sensitive products in fp32",
    ]
    assert describe_attempts(attempts) == (
        "INT8 (OpenVINO) is refused: it loses 0.60 points. INT8 (OpenVINO, 6 most sensitive products in "
        "fp32) is refused: it loses 0.60 points. The file is INT8 (OpenVINO, 12 most sensitive products "
        "in fp32)."
    )


@pytest.mark.parametrize(
    ("operations", "judgements", "in_fp32"),
    [
        (ENCODER, [GOOD], [()]),
        # Products in fp32 restore accuracy and never speed.
        (ENCODER, [SLOW], [()]),
        (CNN, [INACCURATE, GOOD], [(), ("conv",)]),
        (CNN[1:2], [INACCURATE], [()]),
        # With its one group in fp32, nothing but the embeddings would be INT8.
        (ENCODER[:7], [INACCURATE], [()]),
        (ENCODER[:13], [INACCURATE, INACCURATE], [(), tuple(f"product{i}" for i in range(6, 12))]),
    ],
    ids=["good", "slow", "convolutions", "convolutions only", "one group", "two groups"],
)
def test_which_forms_are_tried(
    operations: list[Operation],
    judgements: list[Any],
    in_fp32: list[tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rank(source: Path, operations: list[Operation], *_: Any, **__: Any) -> list[Any]:
        groups = [tuple(operations[i : i + 6]) for i in range(1, len(operations), 6)]
        return groups[::-1]

    assert try_forms(operations, judgements, tmp_path, monkeypatch, rank)[1] == in_fp32


def test_a_failure_after_the_first_form_does_not_hide_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel.\nA stack follows.")

    attempts, _ = try_forms(ENCODER, [INACCURATE], tmp_path, monkeypatch, fail)
    text = describe_attempts(attempts)
    assert "INT8 (OpenVINO) is refused: it loses 0.60 points." in text
    assert "ONNX Runtime cannot rank the products: no kernel." in text

    judgements = [INACCURATE, RuntimeError("no kernel.\nA stack."), GOOD]
    attempts, _ = try_forms(ENCODER, judgements, tmp_path, monkeypatch)
    assert attempts[1].problem == "NNCF or OpenVINO cannot run it: no kernel"
    # A failure of the first form says that NNCF cannot quantise the model at all.
    with pytest.raises(RuntimeError, match="no kernel"):
        try_forms(ENCODER, [RuntimeError("no kernel")], tmp_path, monkeypatch)


@pytest.mark.parametrize("reduce_range", [True, False])
def test_weights_have_7_bits_where_sums_can_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduce_range: bool
) -> None:
    """NNCF's own choice is 7 bits for the first convolution: an encoder has none."""
    asked: dict[str, Any] = {}

    def quantise(model: Any, rows: Any, **settings: Any) -> Any:
        asked.update(settings)
        return model

    names = ["product1", "head/WithoutBiases", "other"]
    operations = [SimpleNamespace(get_friendly_name=lambda name=name: name) for name in names]
    port = SimpleNamespace(get_any_name=lambda: "input_ids")
    model = SimpleNamespace(inputs=[port], get_ops=lambda: operations)
    core = SimpleNamespace(read_model=lambda path: model)
    saved: list[str] = []
    openvino = SimpleNamespace(Core=lambda: core, save_model=lambda model, path, **_: saved.append(path))
    nncf = SimpleNamespace(
        quantize=quantise,
        Dataset=list,
        IgnoredScope=lambda names: names,
        AdvancedQuantizationParameters=dict,
        ModelType=SimpleNamespace(TRANSFORMER="transformer"),
        OverflowFix=SimpleNamespace(ENABLE="enable", DISABLE="disable"),
        set_log_level=lambda level: None,
    )
    monkeypatch.setitem(sys.modules, "openvino", openvino)
    monkeypatch.setitem(sys.modules, "nncf", nncf)
    ids = torch.ones(1, 2, dtype=torch.int64)
    target = tmp_path / "int8.xml"
    in_fp32 = ("product1", "head", "gone")
    quantise_openvino(tmp_path / "m.xml", target, [(ids, ids, ids)], in_fp32, reduce_range=reduce_range)

    assert saved == [str(target)]
    assert asked["advanced_parameters"] == {"overflow_fix": "enable" if reduce_range else "disable"}
    # NNCF refuses names that the model does not have.
    assert asked["ignored_scope"] == ["product1", "head/WithoutBiases"]


def test_missing_packages_are_those_that_a_runtime_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing_openvino_packages({"onnxruntime-int8", "torch"}) == []
    assert missing_openvino_packages({"openvino"}) == ["openvino"]
    assert missing_openvino_packages({"openvino-int8"}) == ["openvino", "nncf"]


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of ONNX or OpenVINO is made, and every pass takes 2 ms."""

    def export(model: Any, path: Path, max_positions: int) -> None:
        path.write_text("onnx")

    monkeypatch.setattr(network_files, "export_onnx", export)
    monkeypatch.setattr(network_files, "convert_to_openvino", write_pair)
    monkeypatch.setattr(network_files, "quantise_openvino", write_pair)
    monkeypatch.setattr(network_bench, "open_forward", lambda path, threads: lambda *_: None)
    monkeypatch.setattr(
        network_bench, "measure_by_length_ms", lambda forwards, *_, **__: [[[2.0]] for _ in forwards]
    )


@pytest.mark.parametrize(
    ("runtime", "name"),
    [("openvino", "openvino_model"), ("openvino-int8", "openvino_model_int8")],
)
def test_a_bench_measures_both_files_of_a_network(
    invented: None, monkeypatch: pytest.MonkeyPatch, runtime: str, name: str
) -> None:
    kinds = []

    def measure_memory(kind: str, path: Path, **_: Any) -> dict[str, float]:
        kinds.append((kind, path.name))
        return {"memory_mb": 30.0}

    monkeypatch.setattr(network_bench, "measure_peak_memory", measure_memory)
    arch = Architecture(1, (2,), (32,))
    with NetworkFiles(CONFIG, longest=4) as files:
        bench = NetworkBench(CONFIG, Conditions(runtime, 1, 1, (4,)), files)
        (entry,) = bench.measure([arch], [arch])
        kept = sorted(path.name for path in Path(files._folder.name).rglob("*.*"))
    assert (entry.size_mb, entry.memory_mb, entry.durations) == (30 / 1e6, 30.0, [[2.0]])
    assert kinds == [("openvino", f"{name}.xml")]
    assert kept == [f"{name}.bin", f"{name}.xml"]


def test_a_row_of_an_int8_word_table_has_a_scale_of_its_own_in_openvino() -> None:
    config = replace(CONFIG, vocab_size=TABLE_ROWS + 1000)
    archs = [Architecture(1, (2,), (32,), table=WordTable(rank=rank)) for rank in (None, 6)]
    sizes = [missing_rows_mb(config, "openvino-int8", arch) for arch in archs]
    assert sizes == pytest.approx([1000 * (16 + 4) / 1e6, 1000 * (6 + 4) / 1e6])
    assert missing_rows_mb(config, "openvino", archs[1]) == pytest.approx(1000 * 24 / 1e6)


def test_a_network_that_openvino_cannot_write_is_one_message(
    invented: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation\nA stack follows.")

    monkeypatch.setattr(network_files, "quantise_openvino", fail)
    with (
        NetworkFiles(CONFIG, longest=4) as files,
        pytest.raises(UserError, match=r'no such operation\. Set runtime = "onnxruntime-int8"'),
        files.open("openvino-int8", Architecture(1, (2,), (32,))),
    ):
        pass

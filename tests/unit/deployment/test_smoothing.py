"""SmoothQuant computes the same in fp32, and loses less in static INT8 where channels have outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.deployment import smoothing
from raycomp.deployment.quantisation import Int8Form, Operation, count_integer_operations, quantise
from raycomp.deployment.runtimes import open_session, session_forward
from raycomp.deployment.smoothing import find_scales, smooth_products

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WORDS, WIDTH = 50, 32
NAMES = ("first", "second")
OPERATIONS = tuple(Operation(name, "MatMul") for name in NAMES)


def write_file(path: Path, outlier: float) -> Path:
    """Write word vectors with one large channel, and two products with them as their common input."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
    table[:, 3] *= outlier
    arrays = {"table": table}
    for name in NAMES:
        weight = rng.normal(size=(WIDTH, 4)).astype(np.float32)
        # The weights of an outlier are small in trained networks.
        weight[3] /= outlier
        arrays[f"{name}.weight"] = weight

    make = onnx.helper.make_node
    nodes = [
        make("Gather", ["table", "input_ids"], ["words"], "words"),
        *(make("MatMul", ["words", f"{name}.weight"], [name], name) for name in NAMES),
        make("Mul", list(NAMES), ["product"], "product"),
        make("ReduceMean", ["product"], ["logits"], "mean", keepdims=0, axes=[1]),
    ]
    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "length"])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 4])
    graph = onnx.helper.make_graph(
        nodes, "g", [ids], [logits], [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items()]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, str(path))
    return path


def calibration() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, WORDS, (8, 12), generator=generator) for _ in range(3)]
    return [(batch, torch.ones_like(batch), torch.zeros_like(batch)) for batch in ids]


def compute(path: Path) -> torch.Tensor:
    forward = session_forward(open_session(path, 1))
    return torch.cat([forward(*batch) for batch in calibration()])


def test_a_smoothed_file_computes_the_same_with_even_inputs(tmp_path: Path) -> None:
    source = write_file(tmp_path / "model.onnx", 100.0)

    # Both products have the same input, which is divided once.
    assert smooth_products(source, tmp_path / "smooth.onnx", NAMES, calibration()) == 1

    expected = compute(source)
    assert (compute(tmp_path / "smooth.onnx") - expected).abs().max() < 1e-4 * expected.abs().max()
    graph = onnx.load(str(tmp_path / "smooth.onnx")).graph
    assert [node.op_type for node in graph.node] == [
        "Gather",
        "Mul",
        "MatMul",
        "MatMul",
        "Mul",
        "ReduceMean",
    ]
    assert {tensor.name for tensor in graph.initializer} >= {
        "first_smooth_weight",
        "second_smooth_weight",
    }
    assert "first.weight" not in {tensor.name for tensor in graph.initializer}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "smooth.onnx"]


def test_smoothing_restores_what_an_outlier_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_file(tmp_path / "model.onnx", 100.0)
    target = tmp_path / "int8.onnx"

    def measure_error(is_smoothed: bool) -> float:
        form = Int8Form("form", True, OPERATIONS, is_smoothed=is_smoothed)
        quantise(source, target, form, calibration(), reduce_range=False)
        assert count_integer_operations(target) == 2
        return float((compute(target) - compute(source)).abs().mean())

    plain, smoothed = measure_error(False), measure_error(True)
    # The mutant: scales of 1 leave the outliers in the inputs.
    monkeypatch.setattr(smoothing, "find_scales", lambda maxima, weights: np.ones_like(maxima))
    mutant = measure_error(True)

    assert smoothed < 0.2 * plain
    assert mutant > 3 * smoothed


def test_scales_follow_equation_4() -> None:
    weights = [np.array([[1.0, -4.0], [0.25, 0.1]]), np.array([[2.0, 0.0], [-1.0, 0.5]])]
    # Maxima of the inputs 16 and 9, of the weights 4 and 1.
    assert find_scales(np.array([16.0, 9.0]), weights).tolist() == [2.0, 3.0]
    # A channel that is always 0 gets a finite scale.
    assert np.isfinite(find_scales(np.zeros(2), weights)).all()

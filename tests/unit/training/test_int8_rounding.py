"""Rounding as in INT8: the grids, the gradients, and agreement with ONNX Runtime's own kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raycomp.training.int8_rounding import Int8Rounding, round_input, round_weight


def test_a_weight_has_one_scale_for_each_output() -> None:
    weight = torch.tensor([[1.27, 0.004, -0.5], [127.0, 1.4, -0.6]])
    expected = torch.tensor([[1.27, 0.0, -0.5], [127.0, 1.0, -1.0]])
    torch.testing.assert_close(round_weight(weight), expected)


def test_an_input_has_256_values_and_keeps_zero() -> None:
    x = torch.linspace(-1.0, 4.1, 1001).reshape(7, 11, 13)
    rounded = round_input(x)
    scale = 5.1 / 255
    assert len(rounded.unique()) == 256
    assert float((rounded - x).abs().max()) <= scale / 2 + 1e-5
    assert round_input(torch.tensor([0.0, 2.0, 3.0]))[0] == 0
    assert torch.equal(round_input(torch.zeros(3)), torch.zeros(3))


def test_the_gradient_passes_the_rounding() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, requires_grad=True)
    layer = nn.Linear(4, 3)
    with Int8Rounding():
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(x.grad, round_weight(layer.weight.detach()).sum(0).expand(5, 4))
    torch.testing.assert_close(layer.weight.grad, round_input(x.detach()).sum(0).expand(3, 4))


def test_only_linear_maps_are_rounded_and_only_inside_the_block() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    weight = torch.randn(5, 4)
    plain = F.linear(x, weight)
    with Int8Rounding():
        assert not torch.equal(F.linear(x, weight), plain)
        assert torch.equal(x @ x.transpose(1, 2), torch.matmul(x, x.transpose(1, 2)))
        assert torch.equal(F.gelu(x), nn.GELU()(x))
    assert torch.equal(F.linear(x, weight), plain)


def test_autocast_does_not_take_a_rounded_product_off_its_grid() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 64, requires_grad=True)
    layer = nn.Linear(64, 8)
    with Int8Rounding():
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            product = layer(x)
    assert product.dtype == torch.float32
    assert torch.equal(product, expected)
    (gradient,) = torch.autograd.grad(product.sum(), x, retain_graph=True)
    assert torch.equal(gradient, *torch.autograd.grad(expected.sum(), x))


@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_rounded_product_is_that_of_onnx_runtime(tmp_path: Path, reduce_range: bool) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from raycomp.deployment.cpu import needs_reduced_range
    from raycomp.deployment.quantisation import Int8Form, find_operations, quantise
    from raycomp.deployment.runtimes import open_session

    if needs_reduced_range() and not reduce_range:
        pytest.skip("sums of 8-bit products overflow on this CPU")
    torch.manual_seed(0)
    weight = torch.randn(6, 16) * torch.tensor([0.01, 0.1, 1.0, 3.0, 10.0, 0.5])[:, None]
    x = torch.randn(3, 16) * 2 + 0.5
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "graph",
        [helper.make_tensor_value_info("x", kind, ["n", 16])],
        [helper.make_tensor_value_info("y", kind, ["n", 6])],
        [numpy_helper.from_array(weight.t().contiguous().numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    onnx.save(model, str(source))
    form = Int8Form("dynamic", False, tuple(find_operations(source)))
    quantise(source, target, form, [], reduce_range=reduce_range)
    output = torch.from_numpy(open_session(target, 1).run(None, {"x": x.numpy()})[0])

    with Int8Rounding(reduce_range=reduce_range):
        rounded = F.linear(x, weight)
    error = (F.linear(x, weight) - rounded).abs().max()
    assert float((output - rounded).abs().max()) < 0.1 * float(error)

"""SmoothQuant: outliers move from the inputs of a product into its weights.

INT8 weights have one scale per channel, and activations have one in all. A few channels with large
activations then leave few steps for the others.
Dividing channel j of the inputs by s_j, and multiplying row j of the weights by it, changes nothing in
fp32 and evens out both sides:

    s_j = max|X_j|^a / max|W_j|^(1 - a)          SmoothQuant, Eq. 4

In BERT, the output of a LayerNorm also goes to the residual sum. The division is therefore a node of its
own and not a part of the LayerNorm; products with the same input share it.

Source: G. Xiao, J. Lin, M. Seznec, H. Wu, J. Demouth, S. Han. SmoothQuant: Accurate and Efficient
Post-Training Quantization for Large Language Models. ICML 2023. https://arxiv.org/abs/2211.10438
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.deployment.runtimes import Calibration, open_session, session_feeds

STRENGTH = 0.5
"""How much of the range of the inputs moves into the weights, `a` of Eq. 4; the paper's value."""

SMALLEST = 1e-5
"""Lower bound of both maxima: a channel that is always 0 needs no scale."""


def smooth_products(
    source: Path, target: Path, products: Collection[str], calibration: Calibration
) -> int:
    """Write a file that computes the same with smoother inputs of its matrix products.

    Args:
        source: ONNX file in fp32.
        target: File to write.
        products: Names of the nodes to smooth. Only MatMul nodes are.
        calibration: Training rows, which the ranges of the inputs come from.

    Returns:
        The number of smoothed inputs.
    """
    import onnx

    model = onnx.load(str(source))
    graph = model.graph
    # Queries, keys and values of a layer have one input: they must agree on one scale.
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    groups: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name in products and node.input[1] in initializers:
            groups.setdefault(node.input[0], []).append(node)

    maxima = _measure_maxima(model, target, list(groups), calibration)
    weights = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in initializers.items()}
    for number, (name, nodes) in enumerate(groups.items()):
        own = [weights[node.input[1]] for node in nodes]
        scales = find_scales(maxima[name], own)
        _divide_input(model, number, name, nodes, scales)
        for node, weight in zip(nodes, own, strict=True):
            # A weight that two products share is scaled for each of them.
            scaled = onnx.numpy_helper.from_array(weight * scales[:, None], f"{node.name}_smooth_weight")
            graph.initializer.append(scaled)
            node.input[1] = scaled.name

    _remove_unused(graph)
    onnx.save(model, str(target))

    return len(groups)


def find_scales(input_maxima: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Return s, by which inputs are divided and weights multiplied: (channels,).

    Args:
        input_maxima: Largest absolute input of each channel: (channels,).
        weights: Weights of the products with this input, each (channels, outputs).
    """
    weight_maxima = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
    inputs = np.maximum(input_maxima, SMALLEST)
    scales: np.ndarray = inputs**STRENGTH / np.maximum(weight_maxima, SMALLEST) ** (1 - STRENGTH)  # Eq. 4
    return scales.astype(np.float32)


def _divide_input(model: Any, number: int, name: str, nodes: list[Any], scales: np.ndarray) -> None:
    """Add the node that divides an input, before the first product that uses it."""
    import onnx

    graph = model.graph
    divisor = onnx.numpy_helper.from_array(1 / scales, f"smooth_{number}_divisor")
    divided = f"smooth_{number}_output"
    node = onnx.helper.make_node("Mul", [name, divisor.name], [divided], f"smooth_{number}")
    graph.initializer.append(divisor)
    first = min(index for index, entry in enumerate(graph.node) if entry.name == nodes[0].name)
    graph.node.insert(first, node)
    for product in nodes:
        product.input[0] = divided


def _measure_maxima(
    model: Any, target: Path, names: list[str], calibration: Calibration
) -> Mapping[str, np.ndarray]:
    """Return the largest absolute value of each channel of some tensors."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    # A session returns outputs only: the inputs of the products become outputs of a copy.
    outputs = {output.name for output in probe.graph.output}
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in outputs
    )
    path = target.with_suffix(".probe.onnx")
    try:
        onnx.save(probe, str(path))
        session = open_session(path, 1)
        maxima = {name: np.zeros(1, np.float32) for name in names}
        for batch in calibration:
            for name, values in zip(
                names, session.run(names, session_feeds(session, *batch)), strict=True
            ):
                largest = np.abs(values).reshape(-1, values.shape[-1]).max(0)
                maxima[name] = np.maximum(maxima[name], largest)
    finally:
        path.unlink(missing_ok=True)

    return maxima


def _remove_unused(graph: Any) -> None:
    """Remove the weights that only unscaled products used."""
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)

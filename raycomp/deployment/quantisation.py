"""INT8 forms of an ONNX file, by ONNX Runtime: weights per channel, activations per tensor.

Dynamic quantisation measures the range of each activation while the model runs. Static quantisation
takes the ranges from calibration rows; convolutions need it, because their dynamic form is slow.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycomp.deployment.runtimes import Calibration, open_session, session_feeds, session_forward
from raycomp.deployment.smoothing import smooth_products

INTEGER_OPERATIONS = frozenset({"MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"})


@dataclass(frozen=True)
class Operation:
    """One node of a graph whose weights can be INT8.

    Attributes:
        name: Name of the node.
        kind: "MatMul", "Gemm", "Conv" or "Gather".
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Int8Form:
    """How a file is quantised.

    Attributes:
        name: What the certificate calls it.
        is_static: Whether activations have fixed ranges, from calibration rows.
        operations: Nodes that become INT8. All others stay in fp32.
        is_smoothed: Whether outliers of the inputs are moved into the weights first.
    """

    name: str
    is_static: bool
    operations: tuple[Operation, ...]
    is_smoothed: bool = False


def find_operations(path: Path) -> list[Operation]:
    """Return the nodes of a file that can be INT8, in the order in which they run.

    A product with a vector (the CNN's attentive sum) stays in fp32: per channel it would get one zero
    point per entry, and ONNX Runtime refuses to load such a MatMulInteger.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    num_dims = {
        tensor.name: len(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }

    operations = []

    for node in graph.node:
        # Attention multiplies two activations: in INT8 these products are slower than in fp32.
        if node.op_type in ("MatMul", "Gemm") and num_dims.get(node.input[1]) == 2:
            operations.append(Operation(node.name, node.op_type))
        elif node.op_type == "Conv" and num_dims.get(node.input[1], 0) >= 3:
            operations.append(Operation(node.name, "Conv"))
        elif node.op_type == "Gather" and num_dims.get(node.input[0]) == 2:
            operations.append(Operation(node.name, "Gather"))

    return operations


def quantise(
    source: Path, target: Path, form: Int8Form, calibration: Calibration, *, reduce_range: bool
) -> None:
    """Write the INT8 form of a file.

    Args:
        source: ONNX file in fp32.
        target: File to write.
        form: How it is quantised; at least one operation.
        calibration: Training rows, which a static or smoothed form takes the ranges from.
        reduce_range: Whether weights have 7 bits; see `cpu.needs_reduced_range`.
    """
    if not form.operations:
        raise ValueError("an INT8 form needs at least one operation: none would mean all of them")

    kinds = sorted({operation.kind for operation in form.operations})
    names = [operation.name for operation in form.operations]

    smoothed = target.with_suffix(".smoothed.onnx")
    try:
        if form.is_smoothed:
            smooth_products(source, smoothed, names, calibration)
            source = smoothed
        with _quiet():
            if form.is_static:
                _quantise_static(source, target, kinds, names, calibration, reduce_range)
            else:
                _quantise_dynamic(source, target, kinds, names, reduce_range)
    finally:
        smoothed.unlink(missing_ok=True)


def _quantise_dynamic(
    source: Path, target: Path, kinds: list[str], names: list[str], reduce_range: bool
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # ONNX Runtime replaces a Gemm by a MatMul with this name before it quantises.
    names = names + [f"{name}_MatMul" for name in names]
    kinds = sorted({"MatMul" if kind == "Gemm" else kind for kind in kinds})
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=kinds,
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=names,
    )


def _quantise_static(
    source: Path,
    target: Path,
    kinds: list[str],
    names: list[str],
    calibration: Calibration,
    reduce_range: bool,
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source,
        target,
        _reader(source, calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=kinds,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=names,
        extra_options={
            "MatMulConstBOnly": True,
            # A product then gives fp32, and loses no precision in a second quantisation.
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        },
    )


def _reader(source: Path, calibration: Calibration) -> Any:
    """Return the calibration rows as ONNX Runtime reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    session = open_session(source, 1)

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        """The batches, one after another."""

        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next batch's inputs, or None after the last."""
            batch = next(self._batches, None)
            if batch is None:
                return None
            return session_feeds(session, *batch)

    return Reader()


def count_integer_operations(path: Path) -> int:
    """Return the number of matrix products and convolutions of a file that are computed in INT8."""
    import onnx

    graph = onnx.load(str(path)).graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    count = 0
    for node in graph.node:
        if node.op_type in INTEGER_OPERATIONS:
            count += 1
        elif node.op_type in ("MatMul", "Gemm", "Conv"):
            # A static form: ONNX Runtime joins the product with the two nodes before it.
            count += node.input[0] in restored and node.input[1] in restored
    return count


def rank_groups(
    source: Path,
    operations: Sequence[Operation],
    calibration: Calibration,
    folder: Path,
    *,
    reduce_range: bool,
    size: int = 6,
) -> list[tuple[Operation, ...]]:
    """Return groups of operations, the one whose INT8 form changes the logits most first.

    A group has neighbouring products and convolutions, or all embeddings: ONNX Runtime gives a whole
    table one scale, so a few large words can cost the precision of all others.

    Args:
        source: ONNX file in fp32.
        operations: Result of `find_operations`.
        calibration: Training rows.
        folder: Directory for files that are removed again.
        reduce_range: As in `quantise`.
        size: Products of a group; a Transformer layer has six.
    """
    products = [operation for operation in operations if operation.kind != "Gather"]
    groups = [tuple(products[i : i + size]) for i in range(0, len(products), size)]
    embeddings = tuple(operation for operation in operations if operation.kind == "Gather")
    groups += [embeddings] if embeddings else []

    expected = _logits(source, calibration)

    # One group at a time: errors of groups that are quantised together would hide each other.
    errors = []

    for group in groups:
        trial = folder / "trial.onnx"
        form = Int8Form("trial", False, group)
        try:
            quantise(source, trial, form, calibration, reduce_range=reduce_range)
            errors.append(float(((_logits(trial, calibration) - expected) ** 2).mean()))
        finally:
            trial.unlink(missing_ok=True)

    order = np.argsort(-np.array(errors), kind="stable")

    return [groups[i] for i in order]


def _logits(path: Path, calibration: Calibration) -> Tensor:
    forward = session_forward(open_session(path, 1))
    return torch.cat([forward(*batch) for batch in calibration])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice about preprocessing from the user's screen."""
    logger = logging.getLogger()
    logger.addFilter(_is_serious)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(_is_serious)


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR

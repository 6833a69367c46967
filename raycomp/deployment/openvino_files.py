"""OpenVINO files of a model, in fp32 and in INT8 by NNCF. Both packages are optional.

`open_forward` runs a file of OpenVINO or of ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from collections.abc import Collection
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raycomp.deployment.runtime_options import openvino_options
from raycomp.deployment.runtimes import (
    Calibration,
    TokenForward,
    named_inputs,
    open_session,
    session_forward,
)
from raycomp.errors import UserError

PACKAGES = {"openvino": "openvino", "openvino-int8": "nncf"}
"""Package that each format, and each runtime, needs. NNCF writes files of OpenVINO and needs it too."""


def require_openvino(formats: set[str]) -> None:
    """Check that the packages of the asked formats of OpenVINO are installed.

    Args:
        formats: Names of formats; others are ignored.

    Raises:
        UserError: A package is missing.
    """
    missing = missing_openvino_packages(formats)
    if missing:
        raise UserError(
            f"The formats openvino and openvino-int8 need the package {missing[0]}, which is not "
            "installed. Run pip install 'raycomp[openvino]', or leave these formats out."
        )


def missing_openvino_packages(names: Collection[str]) -> list[str]:
    """Return the packages of OpenVINO that are not installed and that formats or runtimes need.

    Args:
        names: Names of formats or runtimes; those without an entry in `PACKAGES` are ignored.
    """
    needed = {PACKAGES[name] for name in names if name in PACKAGES}
    packages = ["openvino", *sorted(needed - {"openvino"})] if needed else []
    return [name for name in packages if importlib.util.find_spec(name) is None]


def start_openvino() -> None:
    """Let OpenVINO list the CPUs of this machine. Call it before threads are pinned to some of them.

    OpenVINO lists the CPUs that its thread may use once in a process. If the first file is compiled on
    one CPU, later files run with one thread, although they ask for more.
    """
    import openvino

    openvino.Core().get_property("CPU", "RANGE_FOR_STREAMS")


def convert_to_openvino(source: Path, target: Path) -> None:
    """Write the OpenVINO form of an ONNX file, in fp32.

    Args:
        source: ONNX file.
        target: File to write (.xml). The weights are next to it (.bin).
    """
    import openvino

    # `convert_model` would report the use to OpenVINO's makers.
    _save(openvino.Core().read_model(str(source)), target)


def quantise_openvino(
    source: Path,
    target: Path,
    calibration: Calibration,
    in_fp32: Collection[str] = (),
    *,
    reduce_range: bool,
) -> None:
    """Write the INT8 form of an OpenVINO file, by NNCF's static quantisation with SmoothQuant.

    Args:
        source: File in fp32 (.xml), made from an ONNX file.
        target: File to write (.xml).
        calibration: Training rows, which the ranges come from.
        in_fp32: Nodes of the ONNX file that stay in fp32.
        reduce_range: Whether weights have 7 bits; see `cpu.needs_reduced_range`.
    """
    # NNCF otherwise reports its use to its makers. It reads this once.
    os.environ.setdefault("NNCF_CI", "1")
    import nncf
    import openvino

    model = openvino.Core().read_model(str(source))
    names = [port.get_any_name() for port in model.inputs]
    rows = [named_inputs(names, *batch) for batch in calibration]
    # Bars and advice are not for the user of raycomp.
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        quantised = nncf.quantize(
            model,
            nncf.Dataset(rows),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(rows),
            ignored_scope=nncf.IgnoredScope(names=_find_operations(model, in_fp32)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # By default, NNCF gives 7 bits to the first convolution only.
                overflow_fix=nncf.OverflowFix.ENABLE if reduce_range else nncf.OverflowFix.DISABLE
            ),
        )
    _save(quantised, target)


def _find_operations(model: Any, nodes: Collection[str]) -> list[str]:
    """Return the names that nodes of an ONNX file have in its OpenVINO form."""
    present = {operation.get_friendly_name() for operation in model.get_ops()}
    # A product or a convolution with a bias becomes two operations.
    names = [name for node in nodes for name in (node, f"{node}/WithoutBiases")]
    return [name for name in names if name in present]


def open_forward(path: Path, threads: int) -> TokenForward:
    """Return the forward function of a file: of OpenVINO (.xml), or of ONNX Runtime.

    Args:
        path: The file.
        threads: Threads of one matrix product.
    """
    if path.suffix == ".xml":
        return openvino_forward(path, threads)
    return session_forward(open_session(path, threads))


def openvino_forward(path: Path, threads: int) -> TokenForward:
    """Return the forward function of an OpenVINO file, on the CPU.

    Args:
        path: The file (.xml).
        threads: Threads of one matrix product.
    """
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", openvino_options(threads))
    names = [port.get_any_name() for port in compiled.inputs]

    def forward(ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
        return torch.from_numpy(compiled(named_inputs(names, ids, mask, types))[0].copy())

    return forward


def count_quantised_operations(path: Path) -> int:
    """Return the number of activations of a file that are rounded to INT8."""
    import openvino

    operations = openvino.Core().read_model(str(path)).get_ops()
    return sum(operation.get_type_name() == "FakeQuantize" for operation in operations)


def measure_size_mb(path: Path) -> float:
    """Return the size of a file in MB (10^6 bytes), with the weights that OpenVINO has next to it."""
    weights = path.with_suffix(".bin")
    size = path.stat().st_size
    if weights.exists():
        size += weights.stat().st_size
    return size / 1e6


def remove_file(path: Path) -> None:
    """Remove a file of an export, with the weights that OpenVINO has next to it."""
    path.unlink(missing_ok=True)
    if path.suffix == ".xml":
        path.with_suffix(".bin").unlink(missing_ok=True)


def _save(model: Any, target: Path) -> None:
    import openvino

    target.parent.mkdir(parents=True, exist_ok=True)
    # By default, OpenVINO rounds weights to fp16.
    openvino.save_model(model, str(target), compress_to_fp16=False)

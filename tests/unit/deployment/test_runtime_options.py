"""Measured files share their options with those whose memory is measured, and do not disturb the next."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.deployment import peak_memory
from raycomp.deployment.openvino_files import openvino_forward
from raycomp.deployment.runtime_options import onnx_options, openvino_options
from raycomp.deployment.runtimes import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class _Compiled:
    inputs = ()

    def __call__(self, feeds: Any) -> list[np.ndarray]:
        return [np.zeros((1, 2), np.float32)]


def test_the_memory_of_openvino_is_measured_with_the_settings_that_run_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hint on precision, a CPU with bf16 would hold weights of half the size."""
    used: list[dict[str, Any]] = []

    def compile_model(path: str, device: str, settings: dict[str, Any]) -> _Compiled:
        used.append(settings)
        return _Compiled()

    core = SimpleNamespace(compile_model=compile_model)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setattr(peak_memory, "_read_status", lambda field: 1.0)
    openvino_forward(tmp_path / "model.xml", 2)(torch.ones(1, 2), torch.ones(1, 2), None)
    peak_memory._run_openvino(tmp_path / "model.xml", 1, 2, 2)
    assert used == [openvino_options(2)] * 2
    assert used[0]["INFERENCE_PRECISION_HINT"] == "f32"


def test_a_session_does_not_compute_after_its_run(tmp_path: Path) -> None:
    """Threads that wait actively would take the CPUs of the next file in turns for 30 ms."""
    session = open_session(write_product(tmp_path / "product.onnx"), 2)
    values = np.ones((256, 256), np.float32)
    seconds = []
    for _ in range(5):
        session.run(None, {"x": values})
        began = time.process_time()
        time.sleep(0.02)
        seconds.append(time.process_time() - began)
    # One pause may contain the end of another test's work.
    assert np.median(seconds) < 0.002
    # Where other programs take the CPUs, threads that wait actively do not show.
    assert onnx_options(2).get_session_config_entry("session.force_spinning_stop") == "1"


def write_product(path: Path) -> Path:
    weight = onnx.numpy_helper.from_array(np.ones((256, 256), np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [256, 256]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, str(path))
    return path


def test_the_options_do_not_load_torch() -> None:
    """The memory of a server without torch would otherwise contain torch."""
    code = "import sys; import raycomp.deployment.runtime_options; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

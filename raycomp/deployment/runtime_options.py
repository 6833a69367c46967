"""Options of ONNX Runtime and OpenVINO. A process that measures memory reads them without torch."""

from __future__ import annotations

from typing import Any


def onnx_options(threads: int) -> Any:
    """Return the options of an ONNX Runtime session.

    Args:
        threads: Threads of one matrix product.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Operations of a chain cannot run side by side.
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads wait actively for their next operation. After a run they would do so for another 30 ms or
    # more, on the CPUs that the next file of a measurement in turns, or another replica, needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def openvino_options(threads: int) -> dict[str, str | int]:
    """Return the settings with which OpenVINO compiles a file for the CPU.

    Args:
        threads: Threads of one matrix product.
    """
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # On CPUs with bf16, OpenVINO would otherwise round a file in fp32 to bf16.
        "INFERENCE_PRECISION_HINT": "f32",
    }

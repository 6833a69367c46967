"""Peak memory of a process that loads one deployed file and computes one batch.

    python -m raycomp.deployment.peak_memory FORMAT PATH BATCH LENGTH THREADS

The process measures itself: other programs and models do not count.
"""

from __future__ import annotations

import json
import subprocess  # nosec B404 - the arguments are this module's own
import sys
from pathlib import Path

from raycomp.deployment.runtime_options import onnx_options, openvino_options
from raycomp.errors import UserError

LONGEST_SECONDS = 300
STATUS = Path("/proc/self/status")


def measure_peak_memory(
    kind: str, path: Path, *, batch: int, length: int, threads: int
) -> dict[str, float] | None:
    """Return `memory_mb`, the peak of a process with the model, and `libraries_mb`, that without it.

    Args:
        kind: "torch" for a folder of transformers, "onnxruntime" for an ONNX file, "openvino" for a file
            of OpenVINO.
        path: The folder or file.
        batch: Texts of the batch.
        length: Tokens of each text.
        threads: Threads of one operation.

    Returns:
        Both figures in MB (10^6 bytes), or None on a system that does not report them.

    Raises:
        UserError: The process failed.
    """
    if not STATUS.exists():
        return None

    command = [sys.executable, "-m", "raycomp.deployment.peak_memory", kind, str(path.resolve())]
    command += [str(number) for number in (batch, length, threads)]

    try:
        done = subprocess.run(  # nosec B603 - no shell, and the arguments are this function's
            command, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"The memory of {path.name} cannot be measured: the process that loads it did not end in "
            f"{LONGEST_SECONDS} s. End other programs of this machine, or name fewer formats."
        ) from None

    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it wrote no message"]
        raise UserError(
            f"The memory of {path.name} cannot be measured: the process that loads it ended with code "
            f"{done.returncode} ({lines[-1][:300]}). Free memory, or name fewer formats."
        )

    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])

    return figures


def main(arguments: list[str]) -> None:
    """Load the file, compute one batch three times, and print both figures as JSON."""
    kind, path = arguments[:2]
    batch, length, threads = (int(text) for text in arguments[2:])
    # The peak is read after the run; it never falls.
    run = {"onnxruntime": _run_onnx, "openvino": _run_openvino}.get(kind, _run_torch)
    libraries = run(Path(path), batch, length, threads)
    peak = _read_status("VmHWM")
    print(json.dumps({"memory_mb": peak, "libraries_mb": libraries}))


def _run_onnx(path: Path, batch: int, length: int, threads: int) -> float:
    """Run an ONNX file; return the memory after the imports, in MB."""
    # torch is not imported: a server with ONNX Runtime does not need it.
    import numpy as np
    import onnxruntime

    libraries = _read_status("VmRSS")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), onnx_options(threads), providers=providers)

    feeds = {
        entry.name: np.full((batch, length), int(entry.name != "token_type_ids"), np.int64)
        for entry in session.get_inputs()
    }

    for _ in range(3):
        session.run(None, feeds)

    return libraries


def _run_openvino(path: Path, batch: int, length: int, threads: int) -> float:
    """Run a file of OpenVINO; return the memory after the imports, in MB."""
    import numpy as np
    import openvino

    libraries = _read_status("VmRSS")
    compiled = openvino.Core().compile_model(str(path), "CPU", openvino_options(threads))
    feeds = {
        port.get_any_name(): np.full((batch, length), int(port.get_any_name() != "token_type_ids"))
        for port in compiled.inputs
    }

    for _ in range(3):
        compiled(feeds)

    return libraries


def _run_torch(path: Path, batch: int, length: int, threads: int) -> float:
    """Run a folder of transformers; return the memory after the imports, in MB."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    # The first product starts torch's threads, which are not part of the model.
    torch.ones(2, 2) @ torch.ones(2, 2)
    libraries = _read_status("VmRSS")
    model = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # raycomp's own export
        str(path), trust_remote_code=True, local_files_only=True
    ).eval()
    ids = torch.ones(batch, length, dtype=torch.int64)

    with torch.inference_mode():
        for _ in range(3):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    return libraries


def _read_status(field: str) -> float:
    """Return a field of this process's status that Linux gives in kB, in MB (10^6 bytes)."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


if __name__ == "__main__":
    main(sys.argv[1:])

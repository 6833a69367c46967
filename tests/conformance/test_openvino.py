"""Budgets in OpenVINO with the real packages: a profile, a certificate, and what OpenVINO does itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.deployment import (
    formats,
    network_bench,
    network_files,
    openvino_files,
    openvino_int8,
    timing,
)
from raycomp.deployment.certificate import build_certificate
from raycomp.deployment.cpu import describe_machine
from raycomp.deployment.formats import write_formats
from raycomp.deployment.int8_steps import Judgement
from raycomp.deployment.measured_files import ModelData
from raycomp.deployment.network_files import random_model
from raycomp.deployment.quantisation import find_operations
from raycomp.deployment.timing import FileTimes
from raycomp.encoder.architecture import Architecture, WordTable
from raycomp.encoder.export import export_model
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.certified_files import _format_settings
from raycomp.runtime.pipeline.device_certificates import certify_budgets
from raycomp.runtime.pipeline.device_profiles import record_profiles
from raycomp.storage.machine_limits import usable_cpus
from tests.conformance.deployed import calibration
from tests.conftest import make_tokenizer
from tests.unit.deployment.test_network_bench import CONFIG
from tests.unit.encoder.test_export import CARD
from tests.unit.runtime.pipeline.test_device_certificates import Method
from tests.unit.runtime.pipeline.test_device_checks import make_context

for package in ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf"):
    pytest.importorskip(package, reason=f"{package} of the extra raycomp[openvino] is not installed")

SPACE = {"depth": [1, 3], "heads": [4], "ffn": [64]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are timed for a moment, and their speed does not decide."""
    monkeypatch.setattr(network_bench, "SECONDS", 0.0)
    monkeypatch.setattr(timing, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(formats, "describe_load", lambda: None)
    monkeypatch.setattr(Judgement, "is_fast", True)
    monkeypatch.setattr(FileTimes, "speedup_over", lambda *_: 1.0)


def write_model(context: RunContext, arch: Architecture, folder: Path) -> dict[str, Any]:
    """Write a random network for the context's budget, and return its certificate."""
    network = random_model(context.config, arch)
    export_model(network, make_tokenizer(), folder, ["bad", "good"], CARD)
    vocab_size, positions = context.config.vocab_size, context.config.max_positions
    data = ModelData(lambda forward: 0.75, calibration(), vocab_size, positions, 16)
    settings = _format_settings(context, context.job.budget[0])
    result = write_formats(network, network, folder, settings, data)
    figures = {"arch_id": arch.id, "slowdown": result.slowdown}
    machine = describe_machine(settings.num_threads())
    certificate = build_certificate(figures, machine, settings.limits, result.files, result.notes)
    assert certificate["passing_files"], certificate["notes"]

    with torch.inference_mode():
        ids, mask, types = data.calibration[0]
        logits = network(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    for entry in result.files[1:]:
        difference = openvino_files.open_forward(folder / entry.file, 1)(ids, mask, types) - logits
        allowed = 1e-4 if entry.precision == "fp32" else 0.2 * float(logits.abs().max())
        assert difference.abs().max() < allowed
    return certificate


@pytest.mark.parametrize("runtime", ["openvino", "openvino-int8"])
def test_a_budget_is_profiled_and_certified(
    tiny_job: dict[str, Any], tmp_path: Path, quick: None, runtime: str
) -> None:
    budget = {"latency_ms": 1000, "size_mb": 50, "runtime": runtime}
    context = make_context(tiny_job, tmp_path / "run", budget, space=SPACE)
    context.run_dir.mkdir()
    record_profiles(context, Progress(enabled=False))
    certificates = []

    def certify(context: RunContext, deployable: Deployable) -> dict[str, Any]:
        arch = Architecture.from_json(str(deployable.arch))
        certificates.append(write_model(context, arch, tmp_path / "model"))
        return certificates[-1]

    (model,) = certify_budgets(context, Method().compress, certify, print)
    assert model.verdict == "PASS"
    (certificate,) = certificates
    assert certificate["machine"]["versions"].keys() >= {"openvino", "nncf"}
    precision = "int8" if runtime.endswith("int8") else "fp32"
    (file,) = (
        entry
        for entry in certificate["files"]
        if (entry["runtime"], entry["precision"]) == ("openvino", precision)
    )
    # The network of the profile has the operations of the model: its file has the size of the model's.
    arch = Architecture.from_json(str(model.arch))
    predicted = context.budget_costs.predict(context.job.budget[0], "size_mb", arch)
    assert file["size_mb"] == pytest.approx(predicted, rel=0.03)
    assert file["memory_mb"] > file["libraries_mb"] > 0
    if runtime == "openvino-int8":
        assert file["details"]["form"] == "OpenVINO"


def test_the_rows_that_a_cut_word_table_lacks_have_their_predicted_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network_files, "TABLE_ROWS", 500)
    config = replace(CONFIG, vocab_size=4500)
    arch = Architecture(1, (2,), (32,), table=WordTable(rank=8))
    sizes = []
    for has_all_rows in (True, False):
        with (
            network_files.NetworkFiles(config, longest=4) as files,
            files.open("openvino-int8", arch, has_all_rows=has_all_rows) as path,
        ):
            sizes.append(openvino_files.measure_size_mb(path))

    missing = network_files.missing_rows_mb(config, "openvino-int8", arch)
    assert sizes[0] - sizes[1] == pytest.approx(missing, rel=0.02)


@pytest.mark.parametrize("reduce_range", [True, False])
def test_the_range_of_all_weights_is_reduced_or_none(
    encoder_file: Path, tmp_path: Path, reduce_range: bool
) -> None:
    import openvino

    plain, int8 = tmp_path / "model.xml", tmp_path / "int8.xml"
    openvino_files.convert_to_openvino(encoder_file, plain)
    openvino_files.quantise_openvino(plain, int8, calibration(), reduce_range=reduce_range)
    constants = [
        operation.data.astype(np.int32)
        for operation in openvino.Core().read_model(str(int8)).get_ops()
        if operation.get_type_name() == "Constant" and operation.get_element_type() == openvino.Type.i8
    ]
    largest = [int(np.abs(values).max()) for values in constants if values.ndim == 2]
    # Rows of an embedding are looked up, not summed: they keep their 8 bits.
    num_tables = sum(operation.kind == "Gather" for operation in find_operations(encoder_file))
    num_full = sum(value > 64 for value in largest)
    assert len(largest) > 10 + num_tables
    assert num_full == (num_tables if reduce_range else len(largest)), largest


def test_sensitive_products_stay_in_fp32(
    encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        openvino_int8,
        "rank_groups",
        lambda source, operations, *_, **__: [
            tuple(o for o in operations if o.kind != "Gather")[i : i + 3] for i in range(0, 12, 3)
        ],
    )
    plain, int8 = tmp_path / "model.xml", tmp_path / "int8.xml"
    openvino_files.convert_to_openvino(encoder_file, plain)
    counts = []

    def judge(path: Path) -> Judgement:
        counts.append(openvino_files.count_quantised_operations(path))
        return Judgement(loss=0.0 if len(counts) == 3 else 0.01, speedup=2.0)

    attempts = openvino_int8.write_openvino_int8(
        (encoder_file, plain), int8, calibration(), judge, reduce_range=False
    )
    assert [attempt.problem for attempt in attempts] == [*["it loses 1.00 points"] * 2, ""]
    assert counts[0] > counts[1] > counts[2] > 0


SCRIPT = """
import numpy as np, openvino
from openvino import opset13 as ops
from raycomp.deployment.cpu import pinned_to_cpus
from raycomp.deployment.openvino_files import start_openvino
from raycomp.deployment.runtime_options import openvino_options
x = ops.parameter([1, 64], np.float32)
model = openvino.Model([ops.matmul(x, ops.constant(np.ones((64, 64), np.float32)), False, False)], [x])
start_openvino()
for threads in (1, 2):
    with pinned_to_cpus(threads):
        compiled = openvino.Core().compile_model(model, "CPU", openvino_options(threads))
        print(compiled.get_property("INFERENCE_NUM_THREADS"))
"""


@pytest.mark.skipif(usable_cpus() < 2 or sys.platform != "linux", reason="needs two CPUs and Linux")
def test_a_file_on_one_cpu_does_not_take_threads_from_later_files() -> None:
    """OpenVINO lists the CPUs once: without `start_openvino`, the second file would have one thread."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1", "2"]

"""Which measured files of models and of the teacher are used again, and what limits are compared with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from raycomp.config.budget import Runtime
from raycomp.deployment.cpu import describe_machine
from raycomp.deployment.format_settings import ONNX_FILE, RUNTIME_FILES, TimedReference
from raycomp.encoder.device_table import Conditions
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline import certified_files, export_formats
from raycomp.runtime.pipeline.certified_files import certify_file
from raycomp.runtime.pipeline.measured_models import add_measured_files
from raycomp.search.device_budgets import DeviceState
from raycomp.storage.layout import RunLayout
from tests.unit.invented_device import InventedBench
from tests.unit.runtime.pipeline.test_device_certificates import Method, make_context


@pytest.mark.parametrize(
    ("limit", "runtime", "has_reference"),
    [("0.6x", "onnxruntime", True), (7, "onnxruntime", False), ("0.6x", "torch", False)],
)
def test_the_teacher_s_file_is_the_reference_of_a_share(
    limit: Any,
    runtime: str,
    has_reference: bool,
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = {"name": "edge", "latency_ms": limit}
    context = make_context(tiny_job, tmp_path, [budget])
    table = context.device.tables["edge"]
    conditions = replace(table.conditions, runtime=runtime)
    state = DeviceState({"edge": replace(table, conditions=conditions)})
    monkeypatch.setattr(RunContext, "device", state)
    folder = tmp_path / "teacher"
    (folder / "onnx").mkdir(parents=True)
    (folder / ONNX_FILE).touch()
    monkeypatch.setattr(certified_files, "export_teacher", lambda *_: folder)

    reference = certified_files._find_reference(context, context.job.budget[0])
    full = InventedBench().time(context.space.largest())
    expected = TimedReference(folder / ONNX_FILE, "latency_ms", pytest.approx(full))
    assert reference == (expected if has_reference else None)

    # A machine with too few CPUs is not the device, and the share is then not judged.
    fewer = {**describe_machine(1), "cpus": 0}
    monkeypatch.setattr(certified_files, "describe_machine", lambda threads: fewer)
    assert certified_files._find_reference(context, context.job.budget[0]) is None


def test_a_model_is_measured_again_where_the_run_resumes_on_another_cpu(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    (model,) = Method().compress(context)
    settings = []

    def export(context: RunContext, model: Deployable, folder: Path, *rest: Any) -> dict[str, Any]:
        settings.append(rest[-1])
        folder.mkdir(parents=True)
        certificate = {"arch_id": model.arch_id, "machine": describe_machine(1)}
        (folder / "certificate.json").write_text(json.dumps(certificate))
        return certificate

    monkeypatch.setattr(certified_files, "export_formats", export)
    certify_file(context, model)
    certify_file(context, model)
    assert [entry.runtime for entry in settings] == ["onnxruntime"]

    monkeypatch.setattr(export_formats, "describe_cpu", lambda: {"model": "another CPU"})
    certify_file(context, model)
    assert len(settings) == 2


def test_the_teacher_has_files_for_each_number_of_threads_batch_and_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its INT8 file can be refused with one thread and be written with two."""
    written = []

    def export(context: Any, model: Any, folder: Path, figures: Any, settings: Any) -> None:
        written.append((settings.threads, settings.formats))
        folder.mkdir(parents=True)
        (folder / "certificate.json").write_text(json.dumps({"machine": describe_machine(1)}))

    context: Any = SimpleNamespace(layout=RunLayout(tmp_path))
    monkeypatch.setattr(export_formats, "export_formats", export)
    monkeypatch.setattr(export_formats, "teacher_deployable", lambda context: None)
    one = Conditions("onnxruntime-int8", 1, 1, (16,))
    others = [replace(one, threads=2), replace(one, batch=2), replace(one, lengths=(16, 18))]
    folders = [export_formats.export_teacher(context, entry) for entry in (one, *others)]
    assert len(set(folders)) == 4
    # Both runtimes compare with files of one folder.
    assert export_formats.export_teacher(context, replace(one, runtime="onnxruntime")) == folders[0]
    onnx = ("onnx", "int8")
    assert written == [(1, onnx), (2, onnx), (1, onnx), (1, onnx)]

    # Models in OpenVINO are compared with the teacher in OpenVINO.
    folder = export_formats.export_teacher(context, replace(one, runtime="openvino-int8"))
    assert folder not in folders
    assert export_formats.export_teacher(context, replace(one, runtime="openvino")) == folder
    assert written[4:] == [(1, ("openvino", "openvino-int8"))]


def test_every_runtime_of_a_budget_has_formats() -> None:
    assert set(certified_files.FORMATS) == set(get_args(Runtime))
    for runtime, file in RUNTIME_FILES.items():
        # The INT8 file is judged next to the one in fp32 of the same library.
        assert len(certified_files.FORMATS[runtime]) == 1 + runtime.endswith("-int8")
        assert file.parts[0] in ("onnx", "openvino")


def test_measured_files_are_shipped_with_their_weights(tmp_path: Path) -> None:
    source, out = tmp_path / "certified", tmp_path / "export"
    names = ("onnx/model.onnx", "openvino/openvino_model_int8.xml", "openvino/openvino_model_int8.bin")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    out.mkdir()
    add_measured_files(Deployable("edge", "latency_ms", 5.0, None, measured_files=source), out)
    assert {name: (out / name).read_text() for name in names} == {name: name for name in names}
    assert len(list(out.rglob("*.*"))) == 3

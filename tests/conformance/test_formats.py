"""Formats of one model: what is written, measured and removed."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.deployment import (
    formats,
    measured_files,
    openvino_files,
    openvino_int8,
    peak_memory,
    timing,
)
from raycomp.deployment.format_settings import FormatSettings, parse_formats, read_format_settings
from raycomp.deployment.formats import write_formats
from raycomp.deployment.int8_steps import Judgement
from raycomp.deployment.latency import MIN_RUNS, measure_durations_ms
from raycomp.deployment.measured_files import ModelData
from raycomp.deployment.timing import FileTimes
from raycomp.encoder.export import export_model
from raycomp.errors import UserError
from tests.conftest import make_tokenizer
from tests.unit.encoder.test_export import CARD

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from tests.conformance.deployed import calibration, make_encoder

DATA = ModelData(
    score=lambda forward: 0.75, calibration=calibration(), vocab_size=25, max_positions=40, length=12
)


def write(tmp_path: Path, names: tuple[str, ...], **changes: Any) -> tuple[Path, formats.FormatResult]:
    network = make_encoder()
    folder = tmp_path / "model"
    export_model(network, make_tokenizer(), folder, ["bad", "good"], CARD)
    settings = FormatSettings(names, batches=(1, 2), threads=1, **changes)
    return folder, write_formats(network, network, folder, settings, DATA)


@pytest.fixture
def quick(encoder_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every INT8 form is fast, memory is a constant, and each file is timed for a moment."""

    def copy_file(network: Any, path: Path, max_positions: int) -> float:
        path.parent.mkdir()
        shutil.copyfile(encoder_file, path)
        return 0.0

    monkeypatch.setattr(formats, "export_onnx", copy_file)
    monkeypatch.setattr(formats, "describe_load", lambda: None)
    monkeypatch.setattr(timing, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(Judgement, "is_fast", True)
    figures = {"memory_mb": 20.0, "libraries_mb": 10.0}
    monkeypatch.setattr(measured_files, "measure_peak_memory", lambda *_, **__: figures)
    # The speed of this machine must not decide: no file is slower than another one.
    monkeypatch.setattr(FileTimes, "speedup_over", lambda *_: 1.0)


def test_every_file_is_measured_in_its_runtime(tmp_path: Path, quick: None) -> None:
    folder, result = write(tmp_path, ("onnx", "int8", "torch-export"))
    rows = [(f.file, f.runtime, f.precision) for f in result.files]
    assert rows == [
        ("model.safetensors", "torch", "fp32"),
        ("torch_export/model.pt2", "torch", "fp32"),
        ("onnx/model.onnx", "onnxruntime", "fp32"),
        ("onnx/model_int8.onnx", "onnxruntime", "int8"),
    ]
    for entry in result.files:
        assert entry.size_mb == (folder / entry.file).stat().st_size / 1e6
        assert [(x.batch, x.length) for x in entry.latencies] == [(1, 12), (2, 12)]
        assert all(0 < x.p50_ms <= x.p95_ms <= x.p99_ms and x.runs == MIN_RUNS for x in entry.latencies)
        assert (entry.selection, entry.loss) == (0.75, 0.0)
    assert result.files[2].speedup == 1.0
    assert result.files[3].details["integer_operations"] >= 10
    assert result.notes == ()
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["model.onnx", "model_int8.onnx"]


def test_openvino_files_equal_the_model_and_are_measured(tmp_path: Path, quick: None) -> None:
    pytest.importorskip("openvino", reason="the extra raycomp[openvino] is not installed")
    pytest.importorskip("nncf", reason="the extra raycomp[openvino] is not installed")
    folder, result = write(tmp_path, ("openvino", "openvino-int8"))

    assert [(f.file, f.runtime, f.precision) for f in result.files] == [
        ("model.safetensors", "torch", "fp32"),
        ("openvino/openvino_model.xml", "openvino", "fp32"),
        ("openvino/openvino_model_int8.xml", "openvino", "int8"),
    ]
    assert result.notes == ()
    # The ONNX file, from which they are made, was not asked for.
    assert list((folder / "onnx").iterdir()) == []
    fp32, int8 = (openvino_files.openvino_forward(folder / f.file, 1) for f in result.files[1:])
    weights = (folder / result.files[1].file).with_suffix(".bin")
    assert result.files[1].size_mb > weights.stat().st_size / 1e6
    assert openvino_files.count_quantised_operations(folder / result.files[2].file) > 5
    assert openvino_files.count_quantised_operations(folder / result.files[1].file) == 0

    network = make_encoder()
    for batch in calibration():
        with torch.inference_mode():
            ids, mask, types = batch
            logits = network(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        assert (fp32(*batch) - logits).abs().max() < 1e-4
        assert 0 < (int8(*batch) - logits).abs().max() < 0.1 * logits.abs().max()


def test_an_openvino_int8_file_that_is_slow_is_refused(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO itself is replaced: the rule is that of ONNX Runtime's INT8."""

    def write_file(source: Path, target: Path, *_: Any, **__: Any) -> None:
        target.parent.mkdir(exist_ok=True)
        target.write_text("graph")
        target.with_suffix(".bin").write_text("weights")

    monkeypatch.setattr(formats, "convert_to_openvino", write_file)
    monkeypatch.setattr(openvino_int8, "quantise_openvino", write_file)
    monkeypatch.setattr(formats, "openvino_forward", lambda path, threads: lambda *_: torch.zeros(1, 2))
    monkeypatch.setattr(Judgement, "is_fast", False)
    pinned: list[bool] = []

    @contextlib.contextmanager
    def pinned_to_cpus(threads: int) -> Iterator[None]:
        pinned.append(True)
        yield

    monkeypatch.setattr(formats, "pinned_to_cpus", pinned_to_cpus)
    monkeypatch.setattr(formats, "start_openvino", lambda: pinned.append(False))
    folder, result = write(tmp_path, ("onnx", "openvino-int8"))
    # OpenVINO would otherwise use the pinned CPUs only, for all files of this process.
    assert pinned == [False, True]

    files = ["model.safetensors", "onnx/model.onnx", "openvino/openvino_model.xml"]
    assert [f.file for f in result.files] == files
    assert result.files[2].size_mb == len("graphweights") / 1e6
    assert sorted(p.name for p in (folder / "openvino").iterdir()) == [
        "openvino_model.bin",
        "openvino_model.xml",
    ]
    assert result.notes[0].startswith("INT8 (OpenVINO) is refused: it takes ")


@pytest.mark.parametrize(
    ("step", "files", "note"),
    [
        ("convert_to_openvino", [], "OpenVINO cannot convert or run this model: no such operation."),
        ("openvino_forward", [], "OpenVINO cannot convert or run this model: no such operation."),
        ("quantise_openvino", ["openvino_model"], "NNCF cannot quantise this model, or OpenVINO cannot"),
    ],
)
def test_an_error_of_openvino_is_a_note_and_the_other_formats_stay(
    step: str, files: list[str], note: str, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_file(source: Path, target: Path, *_: Any, **__: Any) -> None:
        target.parent.mkdir(exist_ok=True)
        target.write_text("graph")
        target.with_suffix(".bin").write_text("weights")

    def fail(source: Path, target: Path, *_: Any, **__: Any) -> None:
        if step != "openvino_forward":
            write_file(source, target)
        raise RuntimeError("no such operation.\nThe stack of OpenVINO follows.")

    steps = {
        "convert_to_openvino": write_file,
        "quantise_openvino": write_file,
        "openvino_forward": lambda path, threads: lambda *_: torch.zeros(1, 2),
        step: fail,
    }
    for name, function in steps.items():
        module = openvino_int8 if name == "quantise_openvino" else formats
        monkeypatch.setattr(module, name, function)
    folder, result = write(tmp_path, ("onnx", "openvino", "openvino-int8"))

    expected = [f"openvino/{name}.xml" for name in files]
    assert [f.file for f in result.files] == ["model.safetensors", "onnx/model.onnx", *expected]
    assert sorted({path.stem for path in (folder / "openvino").iterdir()}) == files
    assert len(result.notes) == 1
    assert result.notes[0].startswith(note)
    assert "stack" not in result.notes[0]


def test_a_missing_openvino_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing = ("openvino", "nncf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(UserError, match=r"package openvino, which.*raycomp\[openvino\]"):
        parse_formats("onnx,openvino-int8")


def test_int8_only_removes_its_reference(tmp_path: Path, quick: None) -> None:
    folder, result = write(tmp_path, ("int8",), lengths=(5,))
    assert [f.file for f in result.files] == ["model.safetensors", "onnx/model_int8.onnx"]
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["model_int8.onnx"]
    assert result.files[1].latencies[0].length == 5


def test_a_refused_int8_file_is_replaced_by_fp32_and_said(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judgement, "is_fast", False)
    folder, result = write(tmp_path, ("int8",))
    assert [f.file for f in result.files] == ["model.safetensors", "onnx/model.onnx"]
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["model.onnx"]
    assert "Use the file in fp32." in result.notes[0]


def test_an_int8_file_that_proves_slow_in_turns_with_all_files_is_removed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was judged to be fast. At the first batch it is slower than fp32, at the second one faster."""

    def speedup(own: FileTimes, other: FileTimes, condition: int = 0) -> float:
        return (0.8, 1.3)[condition] if len(own.latencies) == 2 and own is not other else 1.0

    monkeypatch.setattr(FileTimes, "speedup_over", speedup)
    folder, result = write(tmp_path, ("int8",))
    assert [f.file for f in result.files] == ["model.safetensors", "onnx/model.onnx"]
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == ["model.onnx"]
    assert result.notes == (
        "INT8 (dynamic) is refused: it takes 1.25 times as long as fp32 at batch 1. At batch 2 it is "
        "1.30 times as fast as fp32: --batch 2 measures and judges there. Use the file in fp32.",
    )


def test_a_model_that_cannot_be_exported_is_a_note(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: Any, path: Path, max_positions: int) -> float:
        path.parent.mkdir()
        path.write_text("a file that differs")
        raise UserError("torch cannot export this model.")

    monkeypatch.setattr(formats, "export_onnx", fail)
    folder, result = write(tmp_path, ("onnx", "int8"))
    assert [f.file for f in result.files] == ["model.safetensors"]
    assert result.notes == ("torch cannot export this model.",)
    assert list((folder / "onnx").iterdir()) == []


def test_names_and_numbers_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_formats("onnx, int8,onnx,") == ("onnx", "int8")
    with pytest.raises(UserError, match=r"'onx' is unknown. Formats: transformers, plain, onnx"):
        parse_formats("onx")
    for name, values in (("batches", [0]), ("lengths", [-3])):
        with pytest.raises(UserError, match="not valid"):
            read_format_settings("onnx", **{name: values})
    settings = read_format_settings(["onnx"], limits=["latency_ms=8"])
    assert settings.batches == (1, 32)
    assert settings.limits[0].limit == 8.0
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'raycomp\[onnx\]'"):
        parse_formats("int8")
    assert parse_formats("plain") == ("plain",)


def test_a_length_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 to 40 tokens"):
        write(tmp_path, ("onnx",), lengths=(41,))


def test_time_that_is_over_ends_a_measurement() -> None:
    calls = [0]

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> None:
        calls[0] += 1

    (durations,) = measure_durations_ms([forward], 30, length=8, runs=500, warmup=2, seconds=0.0)
    assert len(durations) == MIN_RUNS
    assert calls[0] == MIN_RUNS + 2


def test_a_measurement_counts_the_seconds_of_its_clock() -> None:
    clock = itertools.count(0, 2).__next__
    (durations,) = measure_durations_ms([do_nothing], 30, length=8, runs=3, clock=clock)
    assert durations == [2000, 2000, 2000]


def do_nothing(ids: torch.Tensor, mask: torch.Tensor) -> None:
    pass


def test_a_turn_begins_with_a_pass_that_is_not_measured() -> None:
    names: list[str] = []
    calls = [lambda ids, mask, name=name: names.append(name) for name in "ab"]
    durations = measure_durations_ms(calls, 30, length=8, runs=6, warmup=0, turn=3)
    assert [len(times) for times in durations] == [6, 6]
    assert "".join(names) == "aaaabbbb" * 2


@pytest.mark.skipif(not peak_memory.STATUS.exists(), reason="only Linux reports the memory of a process")
def test_the_peak_memory_of_a_process(encoder_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copyfile(encoder_file, path)
    small, large = (
        peak_memory.measure_peak_memory("onnxruntime", path, batch=batch, length=40, threads=1)
        for batch in (1, 4000)
    )
    assert small is not None
    assert large is not None
    assert 10 < small["libraries_mb"] < small["memory_mb"]
    # 4,000 x 40 tokens of width 32 in fp32 are 20 MB, and the layers hold several such states.
    assert large["memory_mb"] > small["memory_mb"] + 40
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be measured"):
        peak_memory.measure_peak_memory("onnxruntime", path, batch=1, length=4, threads=1)

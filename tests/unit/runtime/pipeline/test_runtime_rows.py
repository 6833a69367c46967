"""Which files a run times beside the quantised teacher, and what it writes; no test reads a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.encoder.device_table import Conditions
from raycomp.methods.base import Deployable
from raycomp.runtime.pipeline import runtime_rows
from raycomp.runtime.pipeline.runtime_rows import record_runtimes
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table

# Each pass of the second half is slow: both files of a turn are, and their ratio stays.
TIMES = {
    "teacher/fp32": [8.0, 8.0, 80.0, 80.0],
    "teacher/int8": [4.0, 4.0, 40.0, 40.0],
    "edge/fp32": [2.0, 2.0, 20.0, 20.0],
    "edge/int8": [1.0, 1.0, 10.0, 10.0],
}
MACHINE = {"model": "an invented CPU", "instruction_sets": [], "cpus": 2}
NAMES = {"model.onnx": "fp32", "model_int8.onnx": "int8"}
OPENVINO_NAMES = {"openvino_model.xml": "fp32", "openvino_model_int8.xml": "int8"}


def write_files(folder: Path, *names: str, library: str = "onnx") -> Path:
    (folder / library).mkdir(parents=True, exist_ok=True)
    entries = []
    for name in names:
        (folder / library / name).touch()
        entries.append({"file": f"{library}/{name}", "size_mb": 9.5, "selection": 0.7})
    write_json(folder / "certificate.json", {"files": entries})
    return folder


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose teacher is exported already, and whose files take the times of `TIMES`."""

    def measure(calls: Sequence[Any], vocab_size: int, *_: Any, **__: Any) -> list[list[list[float]]]:
        assert vocab_size == run.vocab_size
        return [[TIMES[call(None, None)]] for call in calls]

    def open_forward(path: Path, threads: int) -> Callable[..., str]:
        assert threads == 2
        return lambda *_: f"{path.parents[1].name}/{(NAMES | OPENVINO_NAMES)[path.name]}"

    monkeypatch.setattr(runtime_rows, "measure_by_length_ms", measure)
    monkeypatch.setattr(runtime_rows, "open_forward", open_forward)
    monkeypatch.setattr(runtime_rows, "_score", lambda context, forward: context.score)

    run_dir = tmp_path / "run-1a2b3c4d"
    layout = RunLayout(run_dir)
    teacher = write_files(layout.devices.certified / "teacher", *NAMES)
    monkeypatch.setattr(runtime_rows, "export_teacher", lambda context, conditions: teacher)
    table = SimpleNamespace(conditions=Conditions("onnxruntime-int8", 2, 1, (64,)), machine=MACHINE)
    run = SimpleNamespace(
        run_dir=run_dir,
        layout=layout,
        method="yoco",
        primary="accuracy",
        score=0.6,
        vocabulary=None,
        vocab_size=30,
        config=SimpleNamespace(vocab_size=30),
        device=SimpleNamespace(tables={"edge": table}),
    )
    run.cut = SimpleNamespace(**{**vars(run), "score": 0.5})
    return run


def deployable(verdict: str | None, files: Path | None) -> Deployable:
    return Deployable(
        "edge", "latency_ms", 5.0, None, verdict=verdict, measured_files=files,
        certificate={"machine": MACHINE},
    )  # fmt: skip


def test_files_are_compared_with_the_quantised_teacher_pass_by_pass(context: Any, tmp_path: Path) -> None:
    record_runtimes(context, [deployable("PASS", write_files(tmp_path / "edge", *NAMES))])
    rows = read_table(context.run_dir, "runtimes").set_index(["budget", "runtime"])
    assert rows["speedup"].tolist() == [0.5, 1.0, 2.0, 4.0]
    assert rows["method"].tolist() == ["teacher", "teacher", "yoco", "yoco"]
    edge = rows.loc[("edge", "onnxruntime-int8")]
    assert (edge["p50_ms"], edge["size_mb"], edge["selection"], edge["validation"]) == (
        5.5,
        9.5,
        0.7,
        0.6,
    )
    assert (edge["threads"], edge["batch"], edge["length"], edge["metric"]) == (2, 1, 64, "accuracy")


def test_a_sample_of_lengths_is_named(context: Any, tmp_path: Path) -> None:
    conditions = Conditions("onnxruntime-int8", 2, 1, (16, 64), longest=90)
    context.device.tables["edge"].conditions = conditions
    record_runtimes(context, [deployable("PASS", write_files(tmp_path / "edge", *NAMES))])
    rows = read_table(context.run_dir, "runtimes")
    assert rows["length"].unique().tolist() == [90]
    (lengths,) = rows["lengths"].unique()
    assert lengths.startswith("16 to 90 (sample ")


def test_an_int8_file_that_was_refused_has_no_row(context: Any, tmp_path: Path) -> None:
    record_runtimes(context, [deployable("PASS", write_files(tmp_path / "edge", "model.onnx"))])
    rows = read_table(context.run_dir, "runtimes")
    assert rows[rows["budget"] == "edge"]["runtime"].tolist() == ["onnxruntime"]


@pytest.mark.parametrize("verdict", ["NOT CERTIFIED", None])
def test_models_for_another_machine_are_not_timed(
    context: Any, tmp_path: Path, verdict: str | None
) -> None:
    folder = write_files(tmp_path / "edge", *NAMES)
    record_runtimes(context, [deployable(verdict, folder), deployable(verdict, None)])
    assert read_table(context.run_dir, "runtimes").empty


@pytest.mark.parametrize("changes", [{"model": "another CPU"}, {"cpus": 1}])
def test_a_model_that_passed_by_its_size_on_another_machine_is_not_timed(
    context: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    entry = deployable("PASS", write_files(tmp_path / "edge", *NAMES))
    record_runtimes(context, [replace(entry, certificate={"machine": {**MACHINE, **changes}})])
    assert read_table(context.run_dir, "runtimes").empty


def test_a_cut_model_reads_its_own_tokens(context: Any, tmp_path: Path) -> None:
    context.vocabulary = list(range(12))
    context.vocab_size = 12
    files = write_files(tmp_path / "edge", *NAMES)
    record_runtimes(context, [replace(deployable("PASS", files), is_cut=True)])
    rows = read_table(context.run_dir, "runtimes")
    assert rows.groupby("method")["validation"].unique().map(list).to_dict() == {
        "teacher": [0.6],
        "yoco": [0.5],
    }


def test_models_in_openvino_are_compared_with_the_teacher_in_openvino(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def export_teacher(context: Any, conditions: Conditions) -> Path:
        asked.append(conditions)
        return write_files(tmp_path / "teacher", *OPENVINO_NAMES, library="openvino")

    monkeypatch.setattr(runtime_rows, "export_teacher", export_teacher)
    conditions = Conditions("openvino-int8", 2, 1, (64,))
    context.device.tables["edge"] = SimpleNamespace(conditions=conditions, machine=MACHINE)
    files = write_files(tmp_path / "edge", *OPENVINO_NAMES, library="openvino")
    record_runtimes(context, [deployable("PASS", files)])

    rows = read_table(context.run_dir, "runtimes").set_index(["budget", "runtime"])
    assert list(rows.index) == [
        ("teacher", "openvino"), ("teacher", "openvino-int8"), ("edge", "openvino"),
        ("edge", "openvino-int8"),
    ]  # fmt: skip
    assert rows["speedup"].tolist() == [0.5, 1.0, 2.0, 4.0]
    assert [entry.library for entry in asked] == ["openvino"]

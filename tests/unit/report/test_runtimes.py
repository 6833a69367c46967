"""Files in ONNX Runtime beside the quantised teacher: the table, and the axes of the Pareto plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycomp.report import load_tables, write_report
from raycomp.report.runtime_table import RUNTIME_MEANINGS, build_runtime_table
from raycomp.storage.rows import RuntimeRow
from raycomp.storage.tables import write_rows
from tests.unit.report.page_reader import read_page
from tests.unit.report.run_factory import write_run

TIMES = {
    ("teacher", "onnxruntime"): (6.0, 0.84),
    ("teacher", "onnxruntime-int8"): (3.0, 0.80),
    ("yoco", "onnxruntime"): (2.0, 0.82),
    ("yoco", "onnxruntime-int8"): (1.0, 0.81),
}


def write_files(run: Path, batch: int = 1, part: str = "yoco", **changes: Any) -> None:
    """Write the rows of the teacher and of one model."""
    rows = []
    for (method, runtime), (time, score) in TIMES.items():
        row = RuntimeRow(
            run.name, method, "half" if method == "yoco" else method, runtime, 2, batch, 64, 12.3, 0.8,
            score, "accuracy", batch * time, 2 * batch * time, 3 / time,
        )  # fmt: skip
        rows.append({**row.to_row(), **changes})
    write_rows(run, "runtimes", rows, part)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path)
    write_files(folder)
    return folder


def test_the_table_compares_files_with_the_quantised_teacher(run: Path) -> None:
    table = build_runtime_table(load_tables(run).runtimes)
    assert table is not None
    assert table.columns == list(RUNTIME_MEANINGS)
    by_file = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(by_file) == ["teacher, fp32", "teacher, INT8", "yoco half, fp32", "yoco half, INT8"]
    assert by_file["yoco half, INT8"]["speedup"] == "3.00"
    assert by_file["teacher, fp32"]["speedup"] == "0.50"
    assert by_file["yoco half, INT8"]["retention"] == "96.4%", "of the teacher in fp32"


def test_each_method_times_the_teacher_and_the_table_has_it_once(run: Path) -> None:
    write_files(run, part="hat")
    table = build_runtime_table(load_tables(run).runtimes)
    assert table is not None
    assert len(table.rows) == 4


def test_the_plot_has_the_quantised_teacher_as_a_point_of_its_own(run: Path, tmp_path: Path) -> None:
    write_files(run, batch=32, part="hat")
    page = read_page(write_report(run, tmp_path / "r.html"))
    plot = page.plots()[0]
    names = [trace["name"] for trace in plot["data"]]
    variants = plot["variants"]
    assert {len(variant["data"]) for variant in variants.values()} == {len(names)}

    def shown(key: str) -> dict[str, Any]:
        pairs = zip(plot["data"], variants[key]["data"], strict=True)
        return {t["name"]: {**t, **patch} for t, patch in pairs if patch.get("visible", True)}

    first = shown("onnxruntime_2_1_64")
    assert set(first) == {
        "teacher, fp32", "teacher, INT8", "yoco, fp32", "yoco, INT8", "front in ONNX Runtime",
    }  # fmt: skip
    assert (first["teacher, INT8"]["x"], first["teacher, INT8"]["y"]) == ([3.0], [0.8])
    assert "3.00 times as fast as the teacher in INT8" in first["yoco, INT8"]["text"][0]
    assert first["front in ONNX Runtime"]["x"] == [1.0, 2.0, 6.0], "the INT8 teacher is dominated"
    assert shown("onnxruntime_2_32_64")["teacher, INT8"]["x"] == [96.0]
    # The reader comes back to another axis, where the files are hidden and the others are shown.
    assert "teacher (validation)" in shown("params")
    assert not {"teacher, INT8", "front in ONNX Runtime"} & set(shown("params"))


def test_files_of_openvino_have_their_own_axis_and_teacher(run: Path, tmp_path: Path) -> None:
    rows = []
    for (method, runtime), (time, score) in TIMES.items():
        row = RuntimeRow(
            run.name, method, "small" if method == "yoco" else method,
            runtime.replace("onnxruntime", "openvino"), 2, 1, 64, 12.3, 0.8, score / 2, "accuracy",
            time / 2, time, 3 / time,
        )  # fmt: skip
        rows.append(row.to_row())
    write_rows(run, "runtimes", rows, "hat")

    table = build_runtime_table(load_tables(run).runtimes)
    assert table is not None
    assert table.title == "ONNX Runtime and OpenVINO"
    by_file = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(by_file) == 8
    assert by_file["yoco half, INT8"]["retention"] == "96.4%"
    assert by_file["yoco small, OpenVINO INT8"]["retention"] == "96.4%", "of the teacher in OpenVINO"

    plot = read_page(write_report(run, tmp_path / "r.html")).plots()[0]
    variant = plot["variants"]["openvino_2_1_64"]
    pairs = zip(plot["data"], variant["data"], strict=True)
    shown = [trace["name"] for trace, patch in pairs if patch.get("visible", True)]
    assert set(shown) == {
        "teacher, OpenVINO fp32", "teacher, OpenVINO INT8", "yoco, OpenVINO fp32", "yoco, OpenVINO INT8",
        "front in OpenVINO",
    }  # fmt: skip
    assert "onnxruntime_2_1_64" in plot["variants"]


def test_a_run_without_such_budgets_has_neither_table_nor_axis(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert build_runtime_table(load_tables(run).runtimes) is None
    page = read_page(write_report(run, tmp_path / "r.html"))
    assert set(page.plots()[0]["variants"]) == {"params", "flops", "latency_ms"}
    assert not any("ONNX Runtime" in text for text in page.text)


def test_a_sample_of_lengths_is_not_compared_with_one_length(run: Path, tmp_path: Path) -> None:
    """Both have 64 as their longest text; the times of the sample are a tenth."""
    sample = "8 to 64 (sample 1a2b3c)"
    write_files(run, part="hat", lengths=sample, p50_ms=0.1)
    table = build_runtime_table(load_tables(run).runtimes)
    assert table is not None
    lengths = [row[table.columns.index("length")] for row in table.rows]
    assert lengths == ["64"] * 4 + [sample] * 4

    plot = read_page(write_report(run, tmp_path / "r.html")).plots()[0]
    variants = plot["variants"]
    assert {"onnxruntime_2_1_64", "onnxruntime_2_1_64_8_to_64_sample_1a2b3c"} <= set(variants)
    times = [trace.get("x") for trace in variants["onnxruntime_2_1_64"]["data"] if trace.get("x")]
    assert all(0.1 not in own for own in times)

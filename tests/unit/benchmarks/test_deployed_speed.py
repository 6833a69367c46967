"""The table of deployed files against the quantised teacher."""

from __future__ import annotations

from pathlib import Path

from benchmarks.deployed_speed import DeployedFile, format_table
from benchmarks.measure import PairedFigures


def test_a_row_has_the_share_of_the_score_and_the_ratio_of_each_batch(tmp_path: Path) -> None:
    path = tmp_path / "model_int8.onnx"
    path.write_bytes(bytes(1_500_000))
    teacher = DeployedFile("teacher", "INT8", path)
    model = DeployedFile("yoco-half", "INT8", path)
    columns = {
        1: {teacher: PairedFigures((4.0,), (4.0,)), model: PairedFigures((4.0, 40.0), (1.0, 10.0))},
        32: {teacher: PairedFigures((90.0,), (90.0,)), model: PairedFigures((90.0,), (45.0,))},
    }
    lines = format_table([teacher, model], {teacher: 0.8, model: 0.76}, 0.8, columns)
    assert lines[0].startswith("| model | file | size_mb | validation | kept | p50_ms, batch 1 |")
    assert lines[3] == (
        "| yoco-half | INT8 | 1.5 | 0.7600 | 95.0% | 5.50 | 4.00 (4.00 to 4.00) | 45.00 | "
        "2.00 (2.00 to 2.00) |"
    )

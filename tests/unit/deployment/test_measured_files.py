"""INT8 files are judged by passes of the same turns; no test runs a file or reads a clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycomp.deployment import measured_files, timing
from raycomp.deployment.format_settings import (
    INT8_FILE,
    ONNX_FILE,
    OPENVINO_FILE,
    OPENVINO_INT8_FILE,
    WEIGHTS_FILE,
    FormatSettings,
)
from raycomp.deployment.int8_steps import Judgement
from raycomp.deployment.measured_files import ModelData, WrittenFile, find_limited, judge_int8
from raycomp.deployment.runtimes import TokenForward


def make_file(path: Path, selection: float = 0.8) -> WrittenFile:
    return WrittenFile(path, "", "", "", print, selection)  # type: ignore[arg-type]


def judge(
    monkeypatch: pytest.MonkeyPatch,
    speedups: dict[int, float],
    loss: float = 0.0,
    is_own_metric: bool = False,
) -> tuple[Judgement, list[int]]:
    """Judge an INT8 file with these speedups by batch; return the batches that were timed too."""
    timed = []

    def measure(
        forwards: Sequence[TokenForward], *_: Any, batch: int, **__: Any
    ) -> list[list[list[float]]]:
        timed.append(batch)
        return [[[speedups[batch]] * 20], [[1.0] * 20]]

    monkeypatch.setattr(timing, "measure_by_length_ms", measure)
    data = ModelData(lambda forward: 0.0, [], 30, 40, 12, is_own_metric)
    settings = FormatSettings(("int8",), batches=tuple(speedups), threads=1)
    fp32 = make_file(ONNX_FILE, 800.0 if is_own_metric else 0.8)
    return judge_int8(fp32, fp32.forward, fp32.selection - loss, settings, data), timed


def test_a_file_that_is_slow_at_the_first_batch_is_timed_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judgement, timed = judge(monkeypatch, {1: 0.8, 8: 0.9, 32: 1.3})
    assert judgement.problem == "it takes 1.25 times as long as fp32 at batch 1"
    assert judgement.hint == (
        "At batch 32 it is 1.30 times as fast as fp32: --batch 32 measures and judges there."
    )
    assert timed == [1, 8, 32]


@pytest.mark.parametrize(("speedup", "loss"), [(1.2, 0.0), (0.8, 0.1)])
def test_the_other_batches_are_not_timed_where_they_do_not_matter(
    speedup: float, loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    judgement, timed = judge(monkeypatch, {1: speedup, 32: 1.3}, loss)
    assert timed == [1]
    assert judgement.hint == ""


def test_a_user_s_metric_may_lose_half_a_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge(monkeypatch, {1: 1.0}, loss=3.9, is_own_metric=True)[0].problem == ""
    assert "loses 4.1" in judge(monkeypatch, {1: 1.0}, loss=4.1, is_own_metric=True)[0].problem


def test_a_judgement_compares_passes_of_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow moment covers more passes of one file than of the other, and moves its median."""
    fp32 = np.array([2.0] * 4 + [20.0] * 6)
    int8 = np.array([1.9] * 6 + [19.0] * 4)

    def measure(*_: Any, **__: Any) -> list[list[list[float]]]:
        return [[list(fp32)], [list(int8)]]

    monkeypatch.setattr(timing, "measure_by_length_ms", measure)
    data = ModelData(lambda forward: 0.0, [], 30, 40, 12)
    file = make_file(ONNX_FILE)
    settings = FormatSettings(("int8",), batches=(1,), threads=1)
    speedup = judge_int8(file, file.forward, 0.8, settings, data).speedup
    assert speedup == pytest.approx(2 / 1.9)
    assert np.median(fp32) / np.median(int8) > 10


@pytest.mark.parametrize(
    ("runtime", "paths", "number"),
    [
        ("", (WEIGHTS_FILE, ONNX_FILE, INT8_FILE), None),
        ("torch", (WEIGHTS_FILE, ONNX_FILE), 0),
        ("onnxruntime", (WEIGHTS_FILE, ONNX_FILE, INT8_FILE), 1),
        ("onnxruntime-int8", (WEIGHTS_FILE, ONNX_FILE, INT8_FILE), 2),
        # INT8 was refused.
        ("onnxruntime-int8", (WEIGHTS_FILE, ONNX_FILE), 1),
        ("onnxruntime", (WEIGHTS_FILE,), None),
        ("openvino-int8", (WEIGHTS_FILE, ONNX_FILE, OPENVINO_FILE, OPENVINO_INT8_FILE), 3),
        # The file in fp32 of the same library counts, not that of ONNX Runtime.
        ("openvino-int8", (WEIGHTS_FILE, ONNX_FILE, OPENVINO_FILE), 2),
        ("openvino", (WEIGHTS_FILE, ONNX_FILE), None),
    ],
)
def test_the_limits_of_a_budget_are_for_the_file_of_its_runtime(
    runtime: str, paths: tuple[Path, ...], number: int | None
) -> None:
    settings = FormatSettings(("onnx",), runtime=runtime)
    assert find_limited([make_file(path) for path in paths], settings) == number


@pytest.mark.parametrize(("longest", "length"), [(0, 9), (20, 20)])
def test_memory_is_that_of_the_longest_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, longest: int, length: int
) -> None:
    lengths = []

    def measure(*_: Any, **options: Any) -> dict[str, float]:
        lengths.append(options["length"])
        return {"memory_mb": 9.0, "libraries_mb": 5.0}

    monkeypatch.setattr(measured_files, "measure_peak_memory", measure)
    monkeypatch.setattr(timing, "measure_by_length_ms", lambda *_, **__: [[[1.0] * 20]])
    (tmp_path / ONNX_FILE).parent.mkdir()
    (tmp_path / ONNX_FILE).touch()
    settings = FormatSettings(("onnx",), batches=(1,), threads=1, mixed_lengths=(8, 9), longest=longest)
    data = ModelData(lambda forward: 0.0, [], 30, 40, 12)
    files = [WrittenFile(ONNX_FILE, "onnx", "onnxruntime", "fp32", print, 0.8)]  # type: ignore[arg-type]
    (figures,) = measured_files.measure_files(files, tmp_path, settings, data).figures
    assert (figures.memory_mb, lengths) == (9.0, [length])

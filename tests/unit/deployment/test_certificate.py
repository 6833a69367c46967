from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raycomp.deployment.certificate import (
    DeploymentLimit,
    FileFigures,
    Latency,
    build_certificate,
    parse_limits,
    render_card_section,
)
from raycomp.deployment.family_page import family_rows
from raycomp.errors import UserError

MACHINE: dict[str, Any] = {"model": "CPU", "instruction_sets": ["avx2"], "threads": 2, "versions": {}}


def make_file(name: str, milliseconds: float, size_mb: float, memory_mb: float | None) -> FileFigures:
    latency = Latency.of_durations(1, 64, [milliseconds] * 94 + [3 * milliseconds] * 6)
    slow = Latency.of_durations(32, 64, [100.0 * milliseconds])
    return FileFigures(
        file=name, format="onnx", runtime="onnxruntime", precision="fp32", size_mb=size_mb,
        memory_mb=memory_mb, libraries_mb=10.0, selection=0.8, loss=0.0, speedup=1.0,
        latencies=(latency, slow), details={},
    )  # fmt: skip


FILES = (make_file("model.onnx", 4.0, 90.0, 200.0), make_file("model_int8.onnx", 2.0, 23.0, None))
FIGURES = {"params": 1000, "encoder_params": 500, "flops": 2e6, "budget": "half"}


def certify(*limits: DeploymentLimit) -> dict[str, Any]:
    return build_certificate(FIGURES, MACHINE, limits, FILES, ["A note."])


def test_a_limit_is_judged_for_each_file_in_its_own_unit() -> None:
    certificate = certify(DeploymentLimit("params", 1000), DeploymentLimit("latency_ms", 3.0))
    assert [(v["file"], v["value"], v["verdict"]) for v in certificate["limits"]] == [
        ("", 1000, "PASS"),
        ("model.onnx", 4.0, "FAIL"),
        ("model_int8.onnx", 2.0, "PASS"),
    ]
    assert certificate["passing_files"] == ["model_int8.onnx"]
    assert certificate["verdict"] == "PASS"


def test_percentiles_and_sizes_have_limits_of_their_own() -> None:
    # 6% of the passes take three times as long: the 95th percentile is slow, the median is not.
    certificate = certify(DeploymentLimit("latency_ms", 2.5), DeploymentLimit("p95_ms", 2.5))
    assert certificate["verdict"] == "FAIL"
    assert certify(DeploymentLimit("size_mb", 23.0))["passing_files"] == ["model_int8.onnx"]


def test_a_failed_limit_of_the_model_fails_every_file() -> None:
    certificate = certify(DeploymentLimit("encoder_params", 499))
    assert certificate["verdict"] == "FAIL"
    assert certificate["passing_files"] == []


def test_a_value_that_was_not_measured_fails() -> None:
    assert certify(DeploymentLimit("memory_mb", 1e9))["passing_files"] == ["model.onnx"]


def test_a_limit_that_is_not_judged_is_not_met() -> None:
    latency, size = DeploymentLimit("latency_ms", 9.0), DeploymentLimit("size_mb", 23.0)
    certificate = build_certificate(FIGURES, MACHINE, [size], FILES, [], not_judged=[latency])
    assert (certificate["verdict"], certificate["passing_files"]) == ("NOT CERTIFIED", [])
    rows = family_rows([{**certificate, "out": "half"}])
    assert [row["verdict"] for row in rows] == ["FAIL", "NOT JUDGED"]
    assert "NOT JUDGED: not measured (allowed: 9)" in render_card_section(certificate)

    size = DeploymentLimit("size_mb", 1.0)
    assert build_certificate(FIGURES, MACHINE, [size], FILES, [], [latency])["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("limited", "verdict"), [("", "PASS"), ("model.onnx", "FAIL"), ("model_int8.onnx", "PASS")]
)
def test_the_file_of_the_budget_s_runtime_decides(limited: str, verdict: str) -> None:
    limits = [DeploymentLimit("latency_ms", 3.0)]
    certificate = build_certificate(FIGURES, MACHINE, limits, FILES, [], limited=limited)
    assert certificate["verdict"] == verdict


def test_without_limits_all_files_pass() -> None:
    assert certify()["passing_files"] == ["model.onnx", "model_int8.onnx"]


def test_the_model_card_and_the_index_have_every_file_and_limit() -> None:
    certificate = certify(DeploymentLimit("latency_ms", 3.0))
    text = render_card_section(certificate)
    for part in ("model.onnx", "p95 12", "p99", "23.0 MB", "FAIL: 4", "CPU, 2 threads", "A note."):
        assert part in text
    rows = family_rows([{**certificate, "out": "half"}])
    assert [row["verdict"] for row in rows] == ["FAIL", "PASS"]
    assert rows[1]["p50_ms_b1_l64"] == 2.0
    assert rows[1]["p50_ms_b32_l64"] == 200.0


def test_limits_of_the_command_line() -> None:
    limits = parse_limits(["latency_ms=8", "params=12M", "size_mb=.5"])
    assert [(x.quantity, x.limit) for x in limits] == [
        ("latency_ms", 8.0),
        ("params", 12e6),
        ("size_mb", 0.5),
    ]
    for text in ("latency=8", "latency_ms", "latency_ms=", "latency_ms=-1", "params=0.5x", "size_mb=nan"):
        with pytest.raises(UserError, match="--limit"):
            parse_limits([text])


def test_the_card_leaves_out_a_percentile_that_is_not_known() -> None:
    file = FILES[0]
    latency = replace(file.latencies[0], p99_ms=None, lengths="8 to 64 (sample 1a2b3c)")
    certificate = build_certificate(
        FIGURES, MACHINE, [DeploymentLimit("p99_ms", 1e9)], [replace(file, latencies=(latency,))], []
    )
    assert "batch 1, length 8 to 64 (sample 1a2b3c): p50 4.00, p95 12.00 ms" in render_card_section(
        certificate
    )
    assert certificate["verdict"] == "FAIL"

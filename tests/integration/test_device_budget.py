"""A whole run whose budgets limit what is measured in a runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.deployment import int8_steps
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.node_tasks import require_node
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.integration.conftest import run_silently


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_measures_searches_certifies_and_ships_the_files(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    device = {"latency_ms": 500, "percentile": 95, "threads": 1}
    tiny_job["space"] = {"depth": [1, 2, 3], "heads": [4], "ffn": [32, 64]}
    tiny_job["budget"] = [
        {"name": "edge", **device, "size_mb": "0.9x", "memory_mb": 4000},
        {"name": "torch", "size_mb": "0.7x", "runtime": "torch"},
        {"name": "impossible", **device, "size_mb": "0.001x"},
    ]
    with pytest.raises(UserError, match=r"Budget impossible: size_mb <= .* Nearest feasible limit"):
        run_silently(tiny_job, tmp_path)
    del tiny_job["budget"][2]

    # The second run takes the measured layers of the first one, as from a file of `raycomp profile`.
    (measured,) = tmp_path.glob("*/device_profile.json")
    profile = tmp_path / "profile.json"
    tables = json.loads(measured.read_text())
    profile.write_text(json.dumps({"tables": [tables["edge"], tables["torch"]]}))
    for budget in tiny_job["budget"]:
        budget["profile"] = str(profile)
    run_dir = run_silently(tiny_job, tmp_path)

    rows = read_table(run_dir, "deployments").set_index("budget")
    context = RunContext(parse_job(tiny_job), run_dir)
    assert rows["verdict"].tolist() == ["PASS", "PASS"]
    assert rows["kind"].to_dict() == {"edge": "limits", "torch": "size_mb"}
    assert (rows["cost"] <= rows["limit"]).all()

    export = context.layout.export("yoco", "edge")
    certificate = json.loads((export / "certificate.json").read_text())
    assert certificate["verdict"] == "PASS"
    file = next(entry for entry in certificate["files"] if entry["format"] == "onnx")
    assert (export / "onnx" / "model.onnx").stat().st_size / 1e6 == file["size_mb"]
    arch = Architecture.from_json(rows.loc["edge", "arch"])
    predicted = context.device.tables["edge"].predict("size_mb", arch)
    assert predicted == pytest.approx(file["size_mb"], rel=0.01)

    weights = context.layout.export("yoco", "torch") / "model.safetensors"
    assert weights.stat().st_size / 1e6 == rows.loc["torch", "cost"]
    assert not RunLayout(run_dir).devices.certified.exists()

    # Again, nothing is measured.
    written = context.layout.devices.profile.stat().st_mtime_ns
    run_silently(tiny_job, tmp_path)
    assert context.layout.devices.profile.stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_int8_budget_deploys_the_int8_file_beside_the_quantised_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of these few rows is more than half a point, and a teacher of three steps is near chance.
    monkeypatch.setattr(int8_steps, "MAX_LOSS", 1.0)
    device = {"runtime": "onnxruntime-int8", "threads": 1, "length": 16}
    run_dir = run_silently(
        {
            "run": {"name": "int8"},
            "task": {"name": "demo/polarity", "limit": 200, "max_length": 32},
            "model": {"name": "demo/minilm-l6"},
            "teacher": {"epochs": 0.5},
            "space": {"depth": [1, 6], "heads": [12], "ffn": [512, 1536]},
            "train": {"steps": 2, "batch_size": 16, "precision": "fp32"},
            "search": {"evaluations": 4, "batch": 2},
            "heal": {"steps": 0},
            "budget": [
                {"name": "edge", "latency_ms": 900, "percentile": 95, "size_mb": "0.8x", **device}
            ],
        },
        tmp_path,
    )

    (row,) = read_table(run_dir, "deployments").to_dict("records")
    assert row["verdict"] == "PASS"
    layout = RunLayout(run_dir)
    export = layout.export("yoco", "edge")
    certificate = json.loads((export / "certificate.json").read_text())
    file = next(entry for entry in certificate["files"] if entry["format"] == "int8")
    assert (export / "onnx" / "model_int8.onnx").stat().st_size / 1e6 == file["size_mb"]
    assert file["size_mb"] < 24, "an INT8 file of the demo model"
    assert file["memory_mb"] > file["libraries_mb"] > 0
    (latency,) = file["latencies"]
    assert 0 < latency["p50_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
    assert len(certificate["machine"]["pinned_cpus"]) == 1
    (table,) = json.loads(layout.devices.profile.read_text()).values()
    assert table["machine"]["pinned_cpus"] == certificate["machine"]["pinned_cpus"]

    files = read_table(run_dir, "runtimes").set_index(["method", "runtime"])
    assert len(files) == 4
    assert files.loc[("teacher", "onnxruntime-int8"), "speedup"] == 1
    assert files.loc[("yoco", "onnxruntime-int8"), "size_mb"] == file["size_mb"]
    assert files["validation"].between(0, 1).all()


def test_a_node_that_the_cluster_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"No node .* has the resource 'edge'.*leave node out"):
        require_node("edge", 1)
    with pytest.raises(UserError, match="has 2 CPUs, and its budget has threads = 64"):
        require_node("CPU", 64)

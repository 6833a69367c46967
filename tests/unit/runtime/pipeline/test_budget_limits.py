"""A limit of a budget is judged on its device, in its runtime and under its conditions, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.deployment.certificate import Latency
from raycomp.deployment.cpu import describe_machine
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.formats import FormatResult
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline import export_formats
from raycomp.runtime.pipeline.budget_limits import find_limits, with_budget_conditions
from tests.unit.deployment.test_certificate import FIGURES, FILES
from tests.unit.runtime.pipeline.test_device_certificates import PHONE, SPACE, make_context

EDGE = {"name": "edge", "latency_ms": 7, "percentile": 95, "memory_mb": 99, "size_mb": 9, "params": "1M"}
MODEL = Deployable("edge", "limits", 1.0, lambda: pytest.fail("not built"))
ASKED = FormatSettings(("onnx",), batches=(1,), lengths=(16,), threads=1)
"""The conditions of the table that `make_context` writes."""


@pytest.mark.parametrize(
    ("machine", "changes", "not_judged", "note"),
    [
        (None, {}, [], ""),
        (None, {"lengths": (), "batches": (1, 32)}, [], ""),
        (None, {"batches": (32, 1)}, ["p95_ms", "memory_mb"], "batch 32, length 16. Export this model"),
        (None, {"lengths": (64, 16)}, ["p95_ms", "memory_mb"], "without --batch, --length and --threads"),
        (None, {"threads": 3}, ["p95_ms", "memory_mb"], "3 threads"),
        (PHONE, {}, ["p95_ms", "memory_mb"], "The profile is of the CPU a phone, and this machine has"),
        (None, {"formats": ("plain",)}, ["p95_ms", "memory_mb", "size_mb"], "add --formats plain,onnx."),
    ],
)
def test_what_this_measurement_cannot_decide_is_not_judged(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    machine: dict[str, Any] | None,
    changes: dict[str, Any],
    not_judged: list[str],
    note: str,
) -> None:
    context = make_context(tiny_job, tmp_path, [EDGE], machine)
    limits = find_limits(context, MODEL, replace(ASKED, **changes))
    assert [entry.quantity for entry in limits.not_judged] == not_judged
    judged = {entry.quantity: entry.limit for entry in limits.judged}
    all_limits = {"params": 1e6, "p95_ms": 7, "memory_mb": 99, "size_mb": 9}
    assert judged == {name: value for name, value in all_limits.items() if name not in not_judged}
    assert note in " ".join(limits.notes)
    assert bool(limits.notes) == bool(not_judged)
    assert limits.runtime == ("" if "size_mb" in not_judged else "onnxruntime")


@pytest.mark.parametrize(
    ("runtime", "formats"),
    [
        ("onnxruntime-int8", "plain,onnx,int8"),
        ("openvino", "plain,openvino"),
        ("openvino-int8", "plain,openvino,openvino-int8"),
    ],
)
def test_a_missing_file_names_the_formats_of_its_library(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    formats: str,
) -> None:
    # INT8 needs widths that are multiples of 32.
    monkeypatch.setitem(SPACE, "heads", [4])
    context = make_context(tiny_job, tmp_path, [{**EDGE, "runtime": runtime}])
    (note,) = find_limits(context, MODEL, replace(ASKED, formats=("plain",))).notes
    assert note.endswith(f"The limits are for a file in {runtime}: add --formats {formats}.")


def test_a_share_of_the_profile_s_time_is_named(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    budget = {"name": "edge", "latency_ms": "0.5x"}
    context = make_context(tiny_job, tmp_path, [budget])
    (note,) = find_limits(context, replace(MODEL, kind="latency_ms"), ASKED).notes
    assert "is 0.5x of the full network's time in the profile" in note


@pytest.mark.parametrize(
    ("others", "is_default", "is_taken"),
    [
        ([], True, True),
        # The user chose conditions.
        ([], False, False),
        # A limit on the size has no conditions.
        ([{"name": "small", "size_mb": 9, "batch": 8}, {"name": "half", "params": "0.5x"}], True, True),
        ([{"name": "server", "latency_ms": 9, "batch": 8}], True, False),
    ],
)
def test_files_are_measured_under_the_conditions_of_the_budgets(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    others: list[dict[str, Any]],
    is_default: bool,
    is_taken: bool,
) -> None:
    context = make_context(tiny_job, tmp_path, [EDGE, *others])
    tables = json.loads(context.layout.devices.profile.read_text())
    tables["edge"] |= {"lengths": [5, 9], "longest": 12}
    for budget in context.job.budget:
        if budget.name in tables:
            tables[budget.name]["batch"] = budget.batch
    context.layout.devices.profile.write_text(json.dumps(tables))
    context.forget_device()

    asked = FormatSettings(("onnx",), takes_budget_conditions=is_default)
    names = [budget.name for budget in context.job.budget]
    settings = with_budget_conditions(context, names, asked)
    expected = replace(asked, batches=(1,), mixed_lengths=(5, 9), longest=12, threads=1)
    assert settings == (expected if is_taken else asked)
    assert bool(find_limits(context, MODEL, settings).not_judged) != is_taken


def test_an_export_without_the_conditions_of_its_budget_does_not_pass(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 3}])
    network = SimpleNamespace(eval=lambda: SimpleNamespace())
    build: Any = lambda: (network, print)  # noqa: E731 - its type is not that of a model
    model = replace(MODEL, kind="latency_ms", build=build)
    asked: list[FormatSettings] = []

    def write(*arguments: Any) -> FormatResult:
        asked.append(arguments[3])
        times = (Latency(1, 16, 2.0, 2.0, 2.0, 200),)
        # The file in torch is over the limit: it is not the one that the budget is for.
        slow = replace(FILES[0], file="model.safetensors")
        return FormatResult((slow, replace(FILES[1], file="onnx/model.onnx", latencies=times)), ())

    def write_folder(context: RunContext, model: Deployable, out: Path, figures: Any) -> dict[str, Any]:
        out.mkdir()
        return {}

    data = SimpleNamespace(max_positions=40)
    monkeypatch.setattr(export_formats, "write_formats", write)
    monkeypatch.setattr(export_formats, "export_deployable", write_folder)
    monkeypatch.setattr(export_formats, "_model_data", lambda *_: data)
    monkeypatch.setattr(export_formats, "with_model", lambda model, *_: model)
    monkeypatch.setattr(export_formats, "_choose_form", lambda context, network, _: (network, ()))
    monkeypatch.setattr(export_formats, "_model_figures", lambda *_: FIGURES)
    monkeypatch.setattr(export_formats, "in_user_units", lambda context, model: model)
    monkeypatch.setattr(export_formats, "describe_machine", lambda threads: describe_machine(1))

    def export(settings: FormatSettings) -> dict[str, Any]:
        folder = tmp_path / f"out{len(asked)}"
        return export_formats.export_formats(context, model, folder, {}, settings)

    certificate = export(ASKED)
    assert certificate["verdict"] == "PASS"
    assert certificate["passing_files"] == ["onnx/model.onnx"]
    # While the limit is not met, the files are measured again.
    assert [(entry.quantity, entry.limit) for entry in asked[0].limits] == [("latency_ms", 3)]
    assert asked[0].runtime == "onnxruntime"

    certificate = export(replace(ASKED, batches=(32,)))
    assert (certificate["verdict"], certificate["passing_files"]) == ("NOT CERTIFIED", [])
    assert [limit["verdict"] for limit in certificate["limits"]] == ["NOT JUDGED"]
    assert "Not judged of budget edge: latency_ms <= 3." in certificate["notes"][-1]
    assert "Verdict: NOT CERTIFIED." in (tmp_path / "out1" / "README.md").read_text()

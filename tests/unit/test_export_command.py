"""The options of `raycomp export`, its output and its exit codes; models are not written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.api import run as run_module
from raycomp.api.deployment import Deployment
from raycomp.cli import main as cli
from raycomp.runtime.pipeline import reexport
from tests.unit.deployment.test_certificate import DeploymentLimit, certify

RUN = "runs/tiny-12345678"


class Exported:
    """A run that notes what it is asked to export."""

    def __init__(self, *certificates: dict[str, Any]) -> None:
        self.certificates = certificates
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def deployment(self, budget: str) -> Exported:
        self.calls.append((budget, {}))
        return self

    def export(self, out: Path | None, **options: Any) -> Any:
        self.calls.append((out, options))
        if "say" in options or out is None:
            return list(self.certificates)
        return self.certificates[0]


def export(
    monkeypatch: pytest.MonkeyPatch, run: Exported, *arguments: str, code: int = 0
) -> list[tuple[Any, dict[str, Any]]]:
    monkeypatch.setattr(run_module, "open_run", lambda place: run)
    monkeypatch.setattr("sys.argv", ["raycomp", "export", RUN, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    return run.calls


def test_one_budget_with_formats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Exported({"out": "m", **certify(DeploymentLimit("latency_ms", 3.0))})
    arguments = ("--budget", "half", "--out", "m", "--formats", "onnx,int8", "--batch", "8")
    calls = export(monkeypatch, run, *arguments, "--length", "64", "--limit", "latency_ms=3")
    assert calls[0][0] == "half"
    assert calls[1][1] == {
        "formats": "onnx,int8",
        "threads": 0,
        "limits": ["latency_ms=3"],
        "batches": [8],
        "lengths": [64],
        "allow_code": False,
    }
    shown = capsys.readouterr().out
    assert "p50_ms (batch 1, length 64)" in shown
    assert "FAIL       m model.onnx: latency_ms 4, limit 3" in shown
    assert "PASS       m model_int8.onnx: latency_ms 2, limit 3" in shown
    assert "Note       m: A note." in shown


def test_code_of_the_run_is_allowed_by_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Exported({"out": "m", **certify()})
    calls = export(monkeypatch, run, "--all-budgets", "--formats", "onnx", "--allow-code")
    assert calls[0][1]["allow_code"] is True

    settings: list[Any] = []
    monkeypatch.setattr(reexport, "export_budget", lambda *args: settings.append(args[3]) or {})
    opened: Any = SimpleNamespace(local_directory=lambda: tmp_path)
    for allowed in (False, True):
        options: Any = {"formats": "onnx", "allow_code": allowed}
        Deployment(opened, "yoco", "half", {}).export(tmp_path / "out", **options)
        assert settings[-1].allow_code is allowed


def test_a_failed_certificate_has_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = certify(DeploymentLimit("latency_ms", 1.0))
    run = Exported({"out": "a", **certify()}, {"out": "b", **failed})
    calls = export(monkeypatch, run, "--all-budgets", "--formats", "onnx", "--json", code=1)
    assert calls[0][0] is None
    verdicts = [certificate["verdict"] for certificate in json.loads(capsys.readouterr().out)]
    assert verdicts == ["PASS", "FAIL"]


@pytest.mark.parametrize(
    "options",
    [
        {"limits": ["latency_ms=0.01"]},
        {"batches": [2]},
        {"lengths": [8]},
        {"threads": 1},
        {"formats": "onnx"},
        {},
    ],
)
def test_an_option_of_the_measurement_asks_for_it_without_formats(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that nothing measures would always be met."""
    asked: list[Any] = []
    monkeypatch.setattr(
        reexport, "export_budget", lambda run, name, out, settings: asked.append(settings) or {}
    )
    run = SimpleNamespace(local_directory=lambda: tmp_path)
    Deployment(run, "yoco", "half", {}).export(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert (asked[0] is not None) == bool(options)
    if "limits" in options:
        assert asked[0].limits[0].limit == 0.01


def test_a_model_that_fails_a_limit_without_formats_has_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Exported({"out": "m", **certify(DeploymentLimit("latency_ms", 1.0))})
    arguments = ("--budget", "half", "--out", "m", "--limit", "latency_ms=1")
    export(monkeypatch, run, *arguments, code=1)
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name one model with --budget NAME, or ask for all of them with --all-budgets."),
        (("--budget", "half", "--all-budgets"), "Name one model with --budget NAME, or ask"),
        (("--budget", "half"), "The model needs a directory. Name a new one with --out."),
    ],
)
def test_wrong_options_are_one_message(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export(monkeypatch, Exported(), *arguments, code=2)
    assert message in capsys.readouterr().err

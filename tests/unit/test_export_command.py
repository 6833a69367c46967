"""The options of `raycomp export`, its output and its exit codes; models are not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raycomp.api import run as run_module
from raycomp.cli import main as cli
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
    }
    shown = capsys.readouterr().out
    assert "p50_ms (batch 1, length 64)" in shown
    assert "FAIL       m model.onnx: latency_ms 4, limit 3" in shown
    assert "PASS       m model_int8.onnx: latency_ms 2, limit 3" in shown
    assert "Note       m: A note." in shown


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

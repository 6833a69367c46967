"""The examples, on a tiny model: what they print and write, and that they are valid."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import raycomp
from tests.unit.report.study_factory import write_study

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_compresses_and_uses_a_model(tuned_model: Path, tmp_path: Path) -> None:
    """In a process of its own: its metric is a module next to the script, which the workers import."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, str(EXAMPLES / "compress.py"), "--model", str(tuned_model)]
    command += ["--storage", str(tmp_path / "runs"), "--rows", "80", "--steps", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for text in ("architectures", "Started: search", "half", "the story was superb: ", "report.html"):
        assert text in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    run = raycomp.open_run(next((tmp_path / "runs").glob("sentences-*")))
    assert set(run.deployments["metric"]) == {"film_metrics:balanced_accuracy"}


def read_cells() -> list[dict[str, Any]]:
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    cells: list[dict[str, Any]] = notebook["cells"]
    return cells


def test_the_notebook_is_valid_and_has_no_outputs() -> None:
    cells = read_cells()
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        common = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert set(cell) == {*common, "execution_count", "outputs"}
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
        else:
            assert cell["cell_type"] == "markdown"
            assert set(cell) == common
        assert all(line.endswith("\n") for line in cell["source"][:-1])


@pytest.mark.slow
def test_the_notebook_runs(
    tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from raycomp.api import progress

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    code = ["".join(cell["source"]) for cell in read_cells() if cell["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(code[0], names)
    names |= {"MODEL": str(tuned_model), "STORAGE": str(tmp_path), "STEPS": 1}
    for source in code[1:]:
        exec(source, names)

    run = names["run"]
    assert isinstance(run, raycomp.Run)
    assert len(run.deployments) == 2
    assert (run.path / "phone" / "model.safetensors").exists()
    printed = capsys.readouterr().out
    assert "super-network done in" in printed
    assert "\x1b" not in printed


def test_the_study_example_prints_its_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_example("ablations").main(str(write_study(tmp_path)))
    printed = capsys.readouterr().out
    assert "verdict" in printed
    assert "comparisons: " in printed

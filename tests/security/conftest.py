"""The command line called in this process: an attack's answer is one line, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycomp.cli import main as cli
from tests.integration.test_cli import toml

Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Call a command; check that it is refused as users are, and return its message."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["raycomp", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code == 2, out + err
        assert "Traceback" not in out + err
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("Error: ")
        assert lines[0].isprintable()
        assert len(lines[0]) < 4200
        return lines[0]

    return call


@pytest.fixture
def job_file(tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(toml(tiny_job))
    return path

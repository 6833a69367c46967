"""The command line called in this process: an attack's answer is one line, exit code 2, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import call_command
from tests.integration.test_cli import toml

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Call a command; check that it is refused as users are, and return its message."""

    def call(*arguments: str) -> str:
        ended = call_command(capsys, *arguments)
        assert ended.code == 2, ended
        lines = ended.err.splitlines()
        assert len(lines) == 1, ended.err
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

"""The command line called in this process: packages are not imported again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from raycomp.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Exit code; None is 0.
        out: Its standard output.
        err: Its standard error.
    """

    code: Any
    out: str
    err: str


def call_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """Call a command, and return how it ended. It must not print a traceback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["raycomp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return Ended(ended.value.code, out, err)

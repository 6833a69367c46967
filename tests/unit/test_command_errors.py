"""Errors of the operating system on the command line: what the user reads."""

from __future__ import annotations

import errno
import os

import pytest

from raycomp.cli import main as cli


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "Check the path."),
        (errno.EACCES, "Give this user access to it, or name another path."),
        (errno.ENOSPC, "Free space there, then run the same command again."),
        (errno.EIO, "Check the file and the device that it is on."),
    ],
)
def test_an_error_about_a_file_says_what_to_do(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "/data/x.csv")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.USER_ERROR
    assert capsys.readouterr().err == (
        f"Error: Cannot use /data/x.csv: {os.strerror(number)}. {remedy}\n"
    )

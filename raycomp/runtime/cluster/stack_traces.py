"""Errors of Ray's processes: the sentence for the user, and the stack trace in `RUN/errors/`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from raycomp.errors import RankFailedError, UserError
from raycomp.storage.files import write_text
from raycomp.storage.layout import RunLayout

_RAYCOMP_ERROR = re.compile(r"raycomp\.[\w.]+: ")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def describe_cause(error: BaseException | str) -> str:
    """Return the line of an error that names its cause.

    The text of an error that crossed processes is a stack trace. If raycomp raised the error, its last
    line begins with the class, and the rest of the line is a message for users.

    Args:
        error: An error, or its text.
    """
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return repr(error)

    own_lines = [line for line in lines if _RAYCOMP_ERROR.match(line)]
    return _RAYCOMP_ERROR.sub("", (own_lines or lines)[-1])


def save_stack_trace(run_dir: Path, source: str, error: BaseException | str) -> Path | None:
    """Write the stack trace of a failed process to the run directory.

    Args:
        run_dir: The run directory.
        source: What failed, such as the name of a training; it begins the name of the file.
        error: The error, or its text.

    Returns:
        Path of the file; None if the storage cannot be written, which must not hide the error itself.
    """
    text = _COLOURS.sub("", error.trace if isinstance(error, RankFailedError) else str(error))
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = RunLayout(run_dir).errors / f"{source}-{moment}.txt"
    try:
        return write_text(path, text.rstrip() + "\n", sync=False)
    except (UserError, OSError):
        return None


def add_trace(message: str, path: Path | None) -> str:
    """Return a message with a sentence that names the file of the stack trace, if there is one."""
    if path is None:
        return message
    return f"{message.rstrip('.')}. The stack trace is in {path}."

"""Attempts at a training: which one may write. A file in the run directory remembers it.

A training may be started again while a worker of the former attempt still runs, for example on a node
that lost its connection. Each attempt therefore gets a number that is larger than all before. Its workers
check before each write that no later attempt has started. The names of the files of rows have the attempt
too, so a later attempt can remove what an earlier one wrote after the check.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from raycomp.errors import AttemptReplacedError
from raycomp.storage.files import read_json, write_json

_ATTEMPT = re.compile(r"a(\d+)x[0-9a-f]+")


def start_next_attempt(path: Path) -> str:
    """Start an attempt, and replace the one before.

    Args:
        path: File that remembers the attempt (`RunLayout.attempt`).

    Returns:
        The attempt: its number, and a random part that differs if two attempts start at the same moment.
    """
    number = attempt_number(_current_attempt(path)) + 1
    attempt = f"a{number}x{secrets.token_hex(3)}"
    write_json(path, {"attempt": attempt})
    return attempt


def check_attempt(path: Path, attempt: str) -> None:
    """Raise AttemptReplacedError if another attempt has started since.

    Args:
        path: File that remembers the attempt.
        attempt: Attempt of the caller.
    """
    current = _current_attempt(path)
    if current != attempt:
        raise AttemptReplacedError(
            f"Attempt {attempt} at training task {path.stem} was replaced by attempt {current}, so it "
            "must not write any more."
        )


def attempt_number(attempt: str) -> int:
    """Return the number of an attempt; 0 for a name of an earlier version."""
    match = _ATTEMPT.fullmatch(attempt)
    if match is None:
        return 0
    return int(match[1])


def _current_attempt(path: Path) -> str:
    if not path.exists():
        return ""
    return str(read_json(path).get("attempt", ""))

"""Locks of files: one process at a time. The system releases a lock when its process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycomp.errors import UserError


@contextmanager
def held(
    path: Path, what: str, remedy: str = "Choose another directory with --storage."
) -> Iterator[None]:
    """Hold a lock while a block of code runs.

    Args:
        path: Lock file. Its directory is created if it does not exist.
        what: Name of the protected object in messages, such as "Run quickstart-1f3a9c02".
        remedy: Advice to the user if the directory cannot be written.

    Raises:
        UserError: Another process holds the lock, or the directory cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(
            f"The storage {path.parent.parent} cannot be written ({error.strerror}). {remedy}"
        ) from None

    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{what} is locked by {owner}. Wait until it finishes, or stop it.") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield

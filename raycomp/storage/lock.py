"""One process at a time: locks that the system frees when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycomp.errors import UserError


@contextmanager
def held(path: Path, what: str, other: str = "choose another with --storage") -> Iterator[None]:
    """Hold a lock file while the block runs.

    Args:
        path: the file; its folder is made where it is missing.
        what: what the lock is of, for people, such as "run quickstart-1f3a9c02".
        other: what to do where the folder cannot be written.

    Raises:
        UserError: another process holds it, who is named; or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(
            f"storage {path.parent.parent} cannot be written ({error.strerror}); {other}"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{what} is being worked on by {holder}; wait for it, or end it first"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield

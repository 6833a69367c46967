"""Temporary files that killed processes left in a run directory: nothing reads them."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path

from raycomp.storage.layout import RunLayout

LIVE_SECONDS = 600.0
"""Time without a change after which a temporary file is not one that a process still writes.

The lock of a run excludes a second driver, but not `raycomp report` or a worker that outlives its driver.
"""

_FILE = re.compile(r"\..+\.[0-9a-f]{8,}\.tmp")
_FOLDER = re.compile(r"\..+\.[0-9a-f]{8}")


def remove_leftovers(layout: RunLayout) -> None:
    """Remove the temporary files of a run. The caller holds the lock of the run.

    Directories that `raycomp export` and `raycomp serve` are writing stay: these commands do not lock the
    run.
    """
    oldest_s = time.time() - LIVE_SECONDS
    for path in list(layout.path.rglob(".*.tmp")):
        if _FILE.fullmatch(path.name):
            _remove_old(path, oldest_s)

    # Only the process that holds the lock writes exports and models for certificates.
    for parent in (layout.exports, layout.devices.certified):
        for path in list(parent.glob(".*")):
            if _FOLDER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    # The process ended between the last step of the training and the removal of its first weights.
    if layout.teacher_network.exists():
        layout.teacher_start.unlink(missing_ok=True)


def _remove_old(path: Path, oldest_s: float) -> None:
    # A process that still runs may rename the file at this moment.
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_mtime < oldest_s:
            path.unlink()

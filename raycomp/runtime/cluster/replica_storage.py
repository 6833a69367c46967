"""The directories of replicas on one node: where they are, and when they are removed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from raycomp.storage.lock import try_lock
from raycomp.storage.remote import work_root

MAX_UNUSED_SECONDS = 7 * 86_400.0
"""Age from which on the replicas of a run that nothing uses are removed: its driver was killed."""


def replica_root(name: str) -> Path:
    """Return the directory with the replicas of a run on this node.

    Args:
        name: The `replica_name` of the run's file server.
    """
    return work_root() / "replicas" / name


def remove_replicas(name: str) -> None:
    """Remove the replicas of a run on this node; `name` as in `replica_root`."""
    shutil.rmtree(replica_root(name), ignore_errors=True)


def remove_old_replicas() -> None:
    """Remove the replicas of runs that ended long ago without removing them."""
    for root in replica_root("").glob("*/"):
        if _seconds_unused(root) > MAX_UNUSED_SECONDS and not _has_process(root):
            shutil.rmtree(root, ignore_errors=True)


def _seconds_unused(root: Path) -> float:
    # A process that opens a replica makes a directory there, and links files into `files`.
    times = [path.stat().st_mtime for path in (root, root / "files") if path.exists()]
    return time.time() - max(times, default=time.time())


def _has_process(root: Path) -> bool:
    """Return whether a process has, or can have, a replica there. It holds a lock until it ends."""
    for path in root.glob("*.lock"):
        with path.open("a") as file:
            if not try_lock(file):
                return True
    return False

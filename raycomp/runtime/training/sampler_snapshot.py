"""The snapshot file of the sampler actor: one JSON object a line, and the last complete line counts."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from raycomp.storage.files import append_line, write_json

MAX_BYTES = 1 << 16
"""Size from which on the file is replaced: each upload of the run copies the whole file."""


class SnapshotFile:
    """Appends snapshots to a file.

    Replacing the file for each snapshot would take ten times as long as appending a line. An append is
    not synced to disk: only the loss of the whole machine can corrupt the last line, and training then
    resumes from a checkpoint, which does not need the snapshot.

    Example:
        >>> snapshots = SnapshotFile(run_dir / "snapshot.json")  # doctest: +SKIP
        >>> snapshots.replace({"step": 0})  # doctest: +SKIP
        >>> snapshots.append({"step": 1})  # doctest: +SKIP
        >>> read_last_snapshot(run_dir / "snapshot.json")  # doctest: +SKIP
        {'step': 1}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The first append replaces the file, because its last line may be incomplete.
        self._bytes_left = 0

    def replace(self, snapshot: dict[str, Any], *, sync: bool = True) -> None:
        """Replace the file by one snapshot.

        Args:
            snapshot: The snapshot.
            sync: Whether the file must survive the loss of the machine.
        """
        write_json(self.path, snapshot, compact=True, sync=sync)
        self._bytes_left = MAX_BYTES

    def append(self, snapshot: dict[str, Any]) -> None:
        """Append a snapshot."""
        line = json.dumps(snapshot, separators=(",", ":"), allow_nan=False) + "\n"
        bytes_left = self._bytes_left - len(line)

        # If the disk is full, half of the line may be written. The next snapshot then replaces the file.
        self._bytes_left = 0
        if bytes_left < 0:
            self.replace(snapshot, sync=False)
        else:
            append_line(self.path, line)
            self._bytes_left = bytes_left


def read_last_snapshot(path: Path) -> Any:
    """Return the last complete snapshot of a file; None without a complete line."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None

    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None

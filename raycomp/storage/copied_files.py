"""Which files of a run are at its URL already, also for a process that starts again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pyarrow import fs

from raycomp.storage.files import write_text
from raycomp.storage.sync import FileStamp


class CopiedFiles:
    """The stamp that each local file had when it was copied, and the stamp of its copy.

    A file counts as copied while both are as they were. The record survives a restart.

    Args:
        path: File of the record, outside of the run directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps: dict[str, FileStamp] = {}
        self._saved = ""

    def has(self, name: str, stamp: FileStamp) -> bool:
        """Return whether a local file with this stamp was copied."""
        return self._stamps.get(name) == stamp

    def add(self, name: str, stamp: FileStamp) -> None:
        """Count a file as copied."""
        self._stamps[name] = stamp

    def discard(self, name: str) -> None:
        """Forget a file that was removed."""
        self._stamps.pop(name, None)

    def load(self, copies: Mapping[str, fs.FileInfo]) -> None:
        """Read the record of an earlier process. Copies that have changed since are left out.

        Args:
            copies: Files at the URL.
        """
        try:
            record = json.loads(self._path.read_text())
            entries = {str(name): tuple(map(int, values)) for name, values in record.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            # Without a record everything is copied once more.
            return

        for name, values in entries.items():
            if len(values) == 4 and name in copies and values[2:] == _remote_stamp(copies[name]):
                self._stamps[name] = (values[0], values[1])

    def save(self, copies: Mapping[str, fs.FileInfo]) -> None:
        """Write the record if it has changed.

        Args:
            copies: Files at the URL, listed after the last copy.
        """
        entries = {
            name: [*stamp, *_remote_stamp(copies[name])]
            for name, stamp in self._stamps.items()
            if name in copies
        }

        # A run copies every few seconds, and most copies change nothing.
        text = json.dumps(entries)
        if text != self._saved:
            write_text(self._path, text)
            self._saved = text


def _remote_stamp(info: fs.FileInfo) -> tuple[int, int]:
    return info.size or 0, info.mtime_ns or 0

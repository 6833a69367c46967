"""What the synchronisers of run directories share: which files they copy, in which order, and when.

`storage.mirror` copies a run directory to a URL, `runtime.cluster.replica` copies between nodes.
"""

from __future__ import annotations

from pathlib import Path

FileStamp = tuple[int, int]
"""Size in bytes and time of the last change in ns. A changed file has another stamp."""

# Tables come before the checkpoints that count on their rows. JSON files say which other files are
# complete, so they come last.
_ORDER = {".parquet": 0, ".json": 2}


def stamp(path: Path) -> FileStamp:
    """Return the stamp of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def copy_order(name: str) -> tuple[int, str]:
    """Return the sort key of a file. In this order, a copy can be used at any moment."""
    return _ORDER.get(Path(name).suffix, 1), name


def visible_files(folder: Path) -> list[Path]:
    """Return the files in a directory and its subdirectories. Hidden files are incomplete or local."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]

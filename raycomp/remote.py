"""Files at a URL that pyarrow opens: S3, Google Cloud Storage, and what else it knows."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raycomp.errors import UserError
from raycomp.tables import atomic_write


def work_folder(url: str) -> Path:
    """Return the folder in which runs of a URL are worked on: below RAYCOMP_WORK, or the user's cache."""
    given = os.environ.get("RAYCOMP_WORK")
    root = Path(given) if given else Path.home() / ".cache" / "raycomp"
    return root / hashlib.sha256(split_url(url)[0].encode()).hexdigest()[:12]


def split_url(url: str) -> tuple[str, str]:
    """Return a URL without its options and its last "/", and the options with their "?"."""
    place, mark, options = url.partition("?")
    return place.rstrip("/"), mark + options


def open_url(url: str) -> fs.SubTreeFileSystem:
    """Return what lies below a URL.

    Raises:
        UserError: the URL cannot be opened.
    """
    try:
        base, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"storage {url!r} cannot be opened ({error}); give a folder, or a URL such as "
            "s3://bucket/runs, gs://bucket/runs or file:///mnt/runs"
        ) from None
    return fs.SubTreeFileSystem(path, base)


def listed(remote: fs.SubTreeFileSystem, url: str) -> dict[str, fs.FileInfo]:
    """Return every file by its path.

    Raises:
        UserError: the URL cannot be read.
    """
    try:
        found = remote.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url} cannot be read ({error}); check its name and your credentials") from None
    return {info.path: info for info in found if info.type == fs.FileType.File}


def download(remote: fs.SubTreeFileSystem, name: str, target: Path) -> None:
    """Write a file of the storage to `target`.

    Raises:
        UserError: it cannot be read, or its name leads out of the run.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"the storage holds a file {name!r}, which lies outside of its run; remove it")
    try:
        with remote.open_input_stream(name) as file:
            content = file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} cannot be read from the storage ({error})") from None
    atomic_write(target, lambda hidden: hidden.write_bytes(content))

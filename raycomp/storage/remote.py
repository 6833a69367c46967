"""Files at a URL that pyarrow opens: S3, Google Cloud Storage, and what else it knows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raycomp.errors import UserError
from raycomp.storage.files import atomic_write

BLOCK = 1 << 24  # bytes that are read at once


def work_root() -> Path:
    """Return the folder for what this machine works on and can get again: RAYCOMP_WORK, or a cache."""
    given = os.environ.get("RAYCOMP_WORK")
    return Path(given) if given else Path.home() / ".cache" / "raycomp"


def work_folder(url: str) -> Path:
    """Return the folder in which runs of a URL are worked on."""
    return work_root() / hashlib.sha256(split_url(url)[0].encode()).hexdigest()[:12]


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
    """Return every file by its path, but for hidden ones, which are being written or were left so.

    Raises:
        UserError: the URL cannot be read.
    """
    try:
        found = remote.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url} cannot be read ({error}); check its name and your credentials") from None
    return {
        info.path: info
        for info in found
        if info.type == fs.FileType.File and not info.base_name.startswith(".")
    }


def download(remote: fs.FileSystem, name: str, target: Path) -> None:
    """Write a file of the storage to `target`.

    Raises:
        UserError: it cannot be read, or its name leads out of the run.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"the storage holds a file {name!r}, which lies outside of its run; remove it")

    def write(hidden: Path) -> None:
        with hidden.open("wb") as sink:
            for block in _blocks(remote, name):
                sink.write(block)

    atomic_write(target, write)


def _blocks(remote: fs.FileSystem, name: str) -> Iterator[bytes]:
    try:
        with remote.open_input_stream(name) as file:
            while block := file.read(BLOCK):
                yield block
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} cannot be read from the storage ({error})") from error


def upload(remote: fs.FileSystem, name: str, content: bytes | Path) -> None:
    """Write a file of the storage, from a file here or from bytes; who reads it finds it whole."""
    kind = getattr(remote, "base_fs", remote).type_name
    if kind != "s3":  # there a folder would be an object of its own
        remote.create_dir(str(Path(name).parent), recursive=True)
    target = name
    if kind == "local":  # other storages show a file when it is closed
        target = str(Path(name).with_name(f".{Path(name).name}.{uuid.uuid4().hex[:12]}.tmp"))
    try:
        with remote.open_output_stream(target) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    while block := source.read(BLOCK):
                        file.write(block)
        if target != name:
            remote.move(target, name)
    except (OSError, pa.ArrowException):
        if target != name:
            with contextlib.suppress(OSError):
                remote.delete_file(target)
        raise

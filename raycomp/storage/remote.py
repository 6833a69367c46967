"""Files at a URL that pyarrow can open: S3, Google Cloud Storage, and others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raycomp.errors import UserError, redacted
from raycomp.storage.files import atomic_write

CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account.",
    "gcs": "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account.",
    "abfs": "Log in with `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
    "abfss": "Log in with `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
}
"""Where the client of a service reads its credentials."""

_PASSWORD = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/@:]*:(?!\d+(?:/|$)).*@")

BLOCK = 1 << 24
"""Bytes that are read at once."""


def work_root() -> Path:
    """Return the directory for files that can be recreated: RAYCOMP_WORK, or a cache directory."""
    setting = os.environ.get("RAYCOMP_WORK")
    return Path(setting) if setting else Path.home() / ".cache" / "raycomp"


def work_folder(url: str) -> Path:
    """Return the local directory for the runs of a URL."""
    return work_root() / hashlib.sha256(split_url(url)[0].encode()).hexdigest()[:12]


def refuse_secrets(url: str) -> None:
    """Refuse a URL with a password or a key: it would be in process lists, logs and job requests.

    Raises:
        UserError: The URL has one. The message does not.
    """
    location, _, options = url.partition("?")
    without_secrets = redacted(url)
    # A secret may contain "/". A port may come before a path with "@".
    if _PASSWORD.match(location):
        scheme, _, rest = location.partition("://")
        without_secrets = redacted(f"{scheme}://***@{rest.rpartition('@')[2]}?{options}".rstrip("?"))
    if without_secrets == url:
        return

    scheme = url.partition("://")[0].lower()
    remedy = CREDENTIALS.get(scheme, "Give them as the client of this service expects them.")
    raise UserError(
        f"The storage {without_secrets} has credentials in its URL, which process lists and logs would "
        f"show. Remove them from the URL. {remedy}"
    )


def split_url(url: str) -> tuple[str, str]:
    """Return a URL without its options and its last "/", and the options with their "?".

    Raises:
        UserError: The URL has a password or a key.
    """
    refuse_secrets(url)
    location, mark, options = url.partition("?")
    return location.rstrip("/"), mark + options


def open_url(url: str) -> fs.SubTreeFileSystem:
    """Return the file system below a URL.

    Raises:
        UserError: The URL cannot be opened, or has a password or a key.
    """
    refuse_secrets(url)
    try:
        base, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"The storage {url!r} cannot be opened ({error}). Name a directory, or a URL such as "
            "s3://bucket/runs, gs://bucket/runs or file:///mnt/runs."
        ) from None
    return fs.SubTreeFileSystem(path, base)


def listed(remote: fs.SubTreeFileSystem, url: str) -> dict[str, fs.FileInfo]:
    """Return all files by their path. Hidden files are incomplete and left out.

    Raises:
        UserError: The URL cannot be read.
    """
    try:
        entries = remote.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url} cannot be read ({error}). Check its name and your credentials.") from None
    return {
        info.path: info
        for info in entries
        if info.type == fs.FileType.File and not info.base_name.startswith(".")
    }


def download(remote: fs.FileSystem, name: str, target: Path) -> None:
    """Copy a file of a storage to a local file.

    Args:
        remote: File system of the storage.
        name: Path of the file in the storage.
        target: Local file to create or replace.

    Raises:
        UserError: The file cannot be read, or its path leads out of the storage.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"The storage has a file {name!r}, which is outside of its run. Remove the file.")

    def write(hidden: Path) -> None:
        with hidden.open("wb") as sink:
            for block in _read_blocks(remote, name):
                sink.write(block)

    atomic_write(target, write)


def _read_blocks(remote: fs.FileSystem, name: str) -> Iterator[bytes]:
    try:
        with remote.open_input_stream(name) as file:
            while block := file.read(BLOCK):
                yield block
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{name} cannot be read from the storage ({error}). Check your connection and try again."
        ) from error


def upload(remote: fs.FileSystem, name: str, content: bytes | Path) -> None:
    """Write a file of a storage. A reader sees the complete file or none.

    Args:
        remote: File system of the storage.
        name: Path of the file in the storage.
        content: Content, or a local file with it.
    """
    kind = getattr(remote, "base_fs", remote).type_name
    # On S3 a directory would be an object of its own.
    if kind != "s3":
        remote.create_dir(str(Path(name).parent), recursive=True)

    target = name
    # Other storages show a file only after it is closed.
    if kind == "local":
        target = str(Path(name).with_name(f".{Path(name).name}.{uuid.uuid4().hex[:12]}.tmp"))
    try:
        with remote.open_output_stream(target) as file:
            _write_content(file, content)
        if target != name:
            remote.move(target, name)
    except (OSError, pa.ArrowException):
        if target != name:
            with contextlib.suppress(OSError):
                remote.delete_file(target)
        raise


def _write_content(file: pa.NativeFile, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        file.write(content)
        return
    with content.open("rb") as source:
        while block := source.read(BLOCK):
            file.write(block)

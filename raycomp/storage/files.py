"""Atomic files: text, JSON and arrays are written under a hidden name, synced, and renamed.

A reader sees either the old file or the complete new file, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.errors import UserError, first_line

HASH_BLOCK = 1 << 20
"""Bytes that are read at once to compute a hash."""


def atomic_write(target: Path, write: Callable[[Path], Any], *, sync: bool = True) -> Path:
    """Write a file under a hidden name, sync it, and rename it. A failure leaves nothing behind.

    Args:
        target: File to create or replace.
        write: Function that writes the file whose path it is given.
        sync: Whether the file must survive a crash of the machine. If not, readers must be able to
            handle a file that is old or corrupted after a crash.

    Raises:
        UserError: The storage is full or cannot be written.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        # A rename would replace a device such as /dev/full.
        raise UserError(f"Cannot write {target}: it is not a file. Name a file.")
    hidden = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(hidden)
        if sync:
            with hidden.open("rb+") as file:
                os.fsync(file.fileno())
        hidden.replace(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        hidden.unlink(missing_ok=True)
    return target


def append_line(target: Path, line: str) -> None:
    """Add a line to a text file without a sync.

    A failure can leave a part of the line. Readers must be able to handle it.

    Raises:
        UserError: The storage is full or cannot be written.
    """
    try:
        with target.open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise write_error(target, error) from error


def write_error(target: Path, error: OSError) -> UserError:
    """Return the error that tells the user that a file cannot be written."""
    return UserError(
        f"Cannot write {target}: {error.strerror or error}. Free space, or choose another directory for "
        "it (--storage for runs, --out for other files)."
    )


def write_text(target: Path, text: str, *, sync: bool = True) -> Path:
    """Write a small text file atomically; `sync` as in `atomic_write`."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return atomic_write(target, write, sync=sync)


def write_json(target: Path, data: Any, *, compact: bool = False, sync: bool = True) -> Path:
    """Write JSON atomically. Floats are read back bit for bit.

    Args:
        target: File to create or replace.
        data: Values that JSON can represent.
        compact: Whether the file is one line. Use it for files that only programs read.
        sync: As in `atomic_write`.

    Raises:
        ValueError: A number is not finite.
    """
    layout: dict[str, Any] = {"indent": 1}
    if compact:
        layout = {"separators": (",", ":")}
    return write_text(target, json.dumps(data, allow_nan=False, **layout) + "\n", sync=sync)


def write_array(target: Path, array: np.ndarray) -> Path:
    """Write an array as .npy atomically."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    return atomic_write(target, write)


def read_array(path: Path) -> np.ndarray | None:
    """Return the array that `write_array` wrote, or None if the file does not exist.

    Raises:
        UserError: The file is corrupted or not an array.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is corrupted or incomplete ({error}). Move it away and run the job again."
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object that a run wrote.

    Raises:
        UserError: The file is missing or corrupted, or does not contain an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it does not contain a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}). Move it away and run the job again."
        ) from None
    return data


def file_hash(path: Path) -> str:
    """Return the first 16 hex digits of a file's SHA-256. It identifies weights."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()[:16]

"""Atomic files: text, JSON and arrays are written under a hidden name, synced, and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.errors import UserError, first_line
from raycomp.storage.layout import RunLayout


def atomic_write(target: Path, write: Any, *, sync: bool = True) -> Path:
    """Call `write(hidden path)`, sync, and rename it to `target`; leave nothing behind on failure.

    Args:
        target: the file to make or replace.
        write: called with the path to write.
        sync: False for a file that may be torn or old after the machine is lost: readers must bear it.

    Raises:
        UserError: the storage is full or cannot be written.
    """
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
    """Add a line to a text file, unsynced; a failure may leave half of it: readers must bear it.

    Raises:
        UserError: the storage is full or cannot be written.
    """
    try:
        with target.open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise write_error(target, error) from error


def write_error(target: Path, error: OSError) -> UserError:
    """Return what a user is told of a file that could not be written."""
    return UserError(
        f"cannot write {target}: {error.strerror or error}; free space or choose another --storage"
    )


def write_text(target: Path, text: str, *, sync: bool = True) -> Path:
    """Write a small text file atomically; `sync` as in `atomic_write`."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return atomic_write(target, write, sync=sync)


def write_json(target: Path, data: Any, *, compact: bool = False, sync: bool = True) -> Path:
    """Write JSON atomically; floats round-trip bit for bit.

    Args:
        target: the file to make or replace.
        data: what JSON can hold; a number that is not finite is a ValueError.
        compact: one line, for what programs alone read.
        sync: as in `atomic_write`.
    """
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return write_text(target, json.dumps(data, allow_nan=False, **form) + "\n", sync=sync)


def predictions_path(run: Path, model: str, split: str) -> Path:
    """Return the file with the logits of a model on a split."""
    return RunLayout(run).predictions(model, split)


def write_array(target: Path, array: np.ndarray) -> Path:
    """Write an array as .npy atomically."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    return atomic_write(target, write)


def read_array(path: Path) -> np.ndarray | None:
    """Read what `write_array` wrote; None where there is no such file.

    Raises:
        UserError: the file is torn or no array.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is no whole array ({error}); move it away, and run the job again"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a run wrote.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); move it away, and run the job again"
        ) from None
    return data


def file_hash(path: Path) -> str:
    """Return the first 16 hex digits of a file's sha256: the identity of weights."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]

"""Replicas that a killed driver left on a node."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from raycomp.runtime.cluster.replica import _make_process_folder
from raycomp.runtime.cluster.replica_storage import MAX_UNUSED_SECONDS, remove_old_replicas, replica_root


def test_old_replicas_without_a_process_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path))
    old, used, new = (replica_root(name) for name in ("old", "used", "new"))
    for root in (old, used, new):
        (root / "files").mkdir(parents=True)
        (root / "files" / "weights").write_text("x")
    # This process holds the lock of a replica.
    _make_process_folder(used)
    (old / "1-abc.lock").touch()

    long_ago = time.time() - MAX_UNUSED_SECONDS - 60
    for root in (old, used):
        for path in (root / "files", root):
            os.utime(path, (long_ago, long_ago))

    remove_old_replicas()
    assert not old.exists()
    assert (used / "files" / "weights").exists()
    assert (new / "files" / "weights").exists()

    # A copy was added lately.
    os.utime(new, (long_ago, long_ago))
    remove_old_replicas()
    assert new.exists()


def test_a_replica_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems lack them. Files are copied twice then, and old directories stay."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path))
    root = replica_root("used")
    first, second = _make_process_folder(root), _make_process_folder(root)
    # Nobody can tell whether the first process still runs.
    assert first.is_dir()
    assert second.is_dir()

    long_ago = time.time() - MAX_UNUSED_SECONDS - 60
    os.utime(root, (long_ago, long_ago))
    remove_old_replicas()
    assert first.is_dir()


def test_an_error_of_the_storage_is_not_a_missing_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"):
        _make_process_folder(tmp_path)

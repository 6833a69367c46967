"""Storages: a directory, or a URL such as s3://bucket/runs or gs://bucket/runs.

A run on a URL is written in a local directory, where a rename is atomic. It is copied to the URL while
it runs and when it ends. An interrupted run resumes on any machine, from the local directory if that is
newer, else from the URL: at most the work since the last copy is repeated.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raycomp.errors import UserError, redacted
from raycomp.storage.lease import Say
from raycomp.storage.lock import held
from raycomp.storage.mirror import Mirror
from raycomp.storage.remote import download, listed, open_url, split_url, work_folder

EVERY = 20.0
"""Seconds between two copies, and between two heartbeats."""

STAMP_SUFFIX = ".seen"
"""End of the name of the hidden file that says which version of a file was downloaded."""


def is_url(storage: str | Path) -> bool:
    """Return whether a storage is a URL, not a path."""
    return "://" in str(storage)


def is_figure(name: str) -> bool:
    """Return whether reports and queries read a file of a run: tables, JSON and predictions."""
    if name.endswith(".npy"):
        return "/predictions/" in f"/{name}"
    if name.endswith(".json"):
        return "/exports/" not in f"/{name}"
    return name.endswith(".parquet")


@contextmanager
def opened(storage: str | Path, run: str, say: Say = lambda _: None) -> Iterator[Path]:
    """Give the directory that contains the run directory.

    Until the context closes, new files of a run on a URL are copied to the URL.

    Args:
        storage: Path or URL.
        run: Name of the run directory.
        say: Receiver of lines for the user, such as that this process waits for an earlier owner.

    Raises:
        UserError: The URL cannot be read or written, or another process owns the run.
    """
    if not str(storage).strip():
        raise UserError("The storage is empty. Name a directory or a URL with --storage.")
    if not is_url(storage):
        yield Path(storage)
        return

    mirror = Mirror(str(storage), run)
    # Without the lock, a second start on this machine would count as the first one after a restart.
    lock = mirror.folder.parent / f".{run}.lock"
    with held(lock, f"Run {run}", "Name another working directory with RAYCOMP_WORK.", say):
        mirror.take(say)
        end_copying = _repeat(mirror.copy, "mirror")
        # Its own thread, because the copy of a large file takes long.
        end_beating = _repeat(mirror.beat, "heartbeat")
        try:
            yield mirror.folder.parent
        except BaseException:
            _close_after_failure(mirror, end_copying, end_beating)
            raise
        end_copying()
        mirror.close(end_beating)


def _close_after_failure(
    mirror: Mirror, end_copying: Callable[[], None], end_beating: Callable[[], None]
) -> None:
    """Copy a last time; a failure is logged only, because the user must read why the run failed."""
    try:
        end_copying()
        mirror.close(end_beating)
    except Exception as error:
        logging.getLogger("raycomp").warning("%s", redacted(str(error)))


def _repeat(action: Callable[[], bool], name: str) -> Callable[[], None]:
    """Call a function every EVERY seconds in a thread until it returns False.

    Args:
        action: The function.
        name: Name of the thread.

    Returns:
        Function that ends the thread and waits for it.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(EVERY) and action():
            pass

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def fetched(path: str | Path, is_wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """Return a path as it is; for a URL, update a local copy and return its path.

    Args:
        path: Path or URL of a run or a storage.
        is_wanted: Function that says which files are copied, by their path relative to the URL.

    Raises:
        UserError: The URL cannot be read, or does not contain files of a run.
    """
    if not is_url(path):
        return Path(path)

    remote = open_url(str(path))
    url, _ = split_url(str(path))
    folder = work_folder(url) / "read" / url.rpartition("/")[2]
    start_ns = _file_time_ns(folder.parent)
    listed_files = listed(remote, url)
    files = {name: info for name, info in listed_files.items() if is_wanted(name)}
    if not files:
        raise UserError(f"{url} does not contain files of a run. Name the URL of a run or of a storage.")

    for name, info in files.items():
        target = folder / name
        stamp_file = target.with_name(f".{target.name}{STAMP_SUFFIX}")
        stamp = f"{info.size} {info.mtime_ns}"
        if target.exists() and stamp_file.exists() and stamp_file.read_text() == stamp:
            continue

        download(remote, name, target)
        stamp_file.write_text(stamp)

    _remove_lost(folder, set(listed_files), start_ns)
    return folder


def _file_time_ns(folder: Path) -> int:
    """Return the present time as the file system of a directory has it: its clock may be another one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _remove_lost(folder: Path, names: set[str], start_ns: int) -> None:
    """Remove the downloaded files that the URL no longer has.

    Other files stay: the user's own, such as a report or exported models, and those that were downloaded
    for another purpose.

    Args:
        folder: The local copy.
        names: All files at the URL.
        start_ns: Time before they were listed. Another process may have downloaded newer files since.
    """
    for stamp_file in list(folder.rglob(f".*{STAMP_SUFFIX}")):
        target = stamp_file.with_name(stamp_file.name[1:].removesuffix(STAMP_SUFFIX))
        if str(target.relative_to(folder)) in names:
            continue

        # Two processes may remove the same files.
        with suppress(FileNotFoundError):
            if stamp_file.stat().st_mtime_ns < start_ns:
                target.unlink(missing_ok=True)
                stamp_file.unlink()

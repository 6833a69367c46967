"""The lock of a run directory: one process at a time. The system releases it when the process ends.

Some file systems lack such locks (Lustre without `flock`, some NFS and FUSE mounts). There a lease
takes their place: files next to the lock file, with a heartbeat.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from raycomp.errors import LeaseLostError, UserError
from raycomp.storage.lease import Lease, Say
from raycomp.storage.lease_files import DirectoryLeaseStore

HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""Error numbers that mean "another process holds the lock"."""

UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL})
"""Error numbers that mean "this file system lacks locks"."""

BEAT_SECONDS = 20.0
"""Time between two heartbeats of a lease."""


def _warn(text: str) -> None:
    logging.getLogger("raycomp").warning("%s", text)


@contextmanager
def held(
    path: Path,
    what: str,
    remedy: str = "Choose another directory with --storage.",
    say: Say = _warn,
) -> Iterator[None]:
    """Hold a lock while a block of code runs.

    Args:
        path: Lock file. Its directory is created if it does not exist.
        what: Name of the protected object in messages, such as "Run quickstart-1f3a9c02".
        remedy: Advice to the user if the directory cannot be written.
        say: Receiver of notices: that the file system lacks locks, or that this process waits.

    Raises:
        UserError: Another process holds the lock, or the directory cannot be written or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise _write_error(path, error, remedy) from None

    with file:
        if _lock_file(file, path, what, remedy, say):
            yield
            return

        try:
            lease = _acquire_lease(path, what, say)
        except OSError as error:
            raise _write_error(path, error, remedy) from None
        with _beating(lease, what):
            yield


def wait_for_lock(file: IO[str] | int) -> None:
    """Wait for the lock of an open file, and take it. Where the file system lacks locks, do nothing.

    It is for work that a lock only saves, such as a second copy of a file that is replaced atomically.

    Args:
        file: An open file, or its descriptor. The lock ends when it is closed.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def try_lock(file: IO[str]) -> bool:
    """Take the lock of an open file; return False if another process has it, or if nobody can tell.

    On a file system without locks, a process that uses the file cannot be told from one that has ended.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD | UNSUPPORTED:
            raise
        return False
    return True


def _write_error(path: Path, error: OSError, remedy: str) -> UserError:
    return UserError(f"The storage {path.parent.parent} cannot be written ({error.strerror}). {remedy}")


def _lock_file(file: IO[str], path: Path, what: str, remedy: str, say: Say) -> bool:
    """Lock an open file; return False if its file system lacks locks.

    Raises:
        UserError: Another process holds the lock, or the file cannot be locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            say(
                f"The storage {path.parent.parent} lacks file locks ({error.strerror}). {what} is "
                "protected by a file with a heartbeat instead."
            )
            return False

        if error.errno not in HELD:
            raise UserError(
                f"The storage {path.parent.parent} cannot be locked ({error.strerror}). {remedy}"
            ) from None

        # The owner has written its name when it locked the file.
        file.seek(0)
        owner = file.read().strip() or "another process"
        raise UserError(f"{what} is locked by {owner}. Wait until it finishes, or stop it.") from None

    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    return True


def _acquire_lease(path: Path, what: str, say: Say) -> Lease:
    lease = Lease(DirectoryLeaseStore(path.parent), f"{path.name}.owner", what)
    lease.acquire(say=say)
    return lease


@contextmanager
def _obeying_interrupts() -> Iterator[None]:
    """Let SIGINT interrupt the block also in a process that a script started in the background.

    Such a process ignores SIGINT, and the loss of the lease could not end its work.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _beating(lease: Lease, what: str) -> Iterator[None]:
    """Send heartbeats while the block runs, and release the lease afterwards.

    If another process takes over, the block is interrupted: it must not write any more.

    Raises:
        UserError: Another process has taken over.
    """
    stop = threading.Event()
    new_owner: list[str] = []

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            try:
                lease.renew()
            except LeaseLostError as error:
                new_owner.append(error.owner)
                # The work is in the main thread, which is prepared for Ctrl-C.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            except OSError as error:
                # The next heartbeat tries again.
                _warn(f"The heartbeat of {what} cannot be written ({error.strerror}).")

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()

    try:
        with _obeying_interrupts():
            yield
    except (KeyboardInterrupt, SystemExit):
        if not new_owner:
            raise
        raise UserError(
            f"{what} was taken over by {new_owner[0]}, because this process sent no heartbeat for too "
            "long. Run the same command again when the other process has finished."
        ) from None
    finally:
        stop.set()
        thread.join()
        with suppress(LeaseLostError, OSError):
            lease.release()

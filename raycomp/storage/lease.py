"""A lease: the right of one process to write, where the system cannot release a lock.

A lease is a series of small files, `<name>.<number>.json`. The one with the highest number names the
owner:

- Only its owner rewrites a file, every few seconds: the heartbeat.
- A process becomes the owner by creating the next file, which succeeds for one process only.
- It may do so if the newest file says that its owner has ended, or if that process is known to be dead,
  or if the file has not changed for DEAD_SECONDS on the own clock. Clocks are never compared.
- An owner that was suspended for long does not write until it has created the next file itself.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from raycomp.errors import LeaseLostError, UserError
from raycomp.storage.lease_files import (
    LeaseRecord,
    LeaseStore,
    is_dead_process,
    own_record,
    parse_record,
)

DEAD_SECONDS = 120.0
"""Seconds without a heartbeat after which another process takes over."""

LAPSE_SHARE = 0.5
"""Share of DEAD_SECONDS after which an owner without a heartbeat doubts its own lease."""

POLL_SECONDS = 2.0
"""Largest time between two looks at the heartbeat of another owner."""

Say = Callable[[str], None]
"""Receiver of a line for the user."""


class Lease:
    """The lease of one process.

    Call `acquire`, then `renew` again and again from a thread, then `release`. Write only while
    `is_fresh` is true, or after `renew`. Several threads may call these methods.

    Args:
        store: Where the files are.
        name: First part of their names.
        what: Name of the protected object in messages, such as "Run quickstart-1f3a9c02".
        dead_seconds: Seconds without a heartbeat after which another process takes over.
    """

    def __init__(
        self, store: LeaseStore, name: str, what: str, *, dead_seconds: float = DEAD_SECONDS
    ) -> None:
        self._store = store
        self._name = name
        self._what = what
        self._dead_seconds = dead_seconds
        self._number = 0
        self._record = own_record()
        self._beat_time = 0.0
        self._lock = threading.RLock()

    @property
    def attempt(self) -> str:
        """Random name of this owner."""
        return self._record.attempt

    def is_lease_file(self, name: str) -> bool:
        """Return whether a file belongs to this lease."""
        return self._number_of(name) is not None

    def newest_owner(self) -> LeaseRecord | None:
        """Return the owner that the newest file names; None before there is one."""
        return self._newest()[1]

    def acquire(
        self, own_attempts: Collection[str] = (), say: Say = lambda _: None
    ) -> LeaseRecord | None:
        """Become the owner. If the present owner may have died, wait for its heartbeat first.

        Args:
            own_attempts: Attempts of dead processes whose lease this process inherits.
            say: Receiver of the line about waiting.

        Returns:
            The previous owner, or None.

        Raises:
            UserError: Another process owns the lease, and its heartbeat continues.
        """
        while True:
            number, record = self._newest()
            if record is not None and not self._is_free(record, own_attempts):
                self._wait_for_lapse(number, record, say)

            if self._create(number + 1):
                self._remove_old_files()
                return record

    def _is_free(self, record: LeaseRecord, own_attempts: Collection[str]) -> bool:
        return record.ended or record.attempt in own_attempts or is_dead_process(record)

    def renew(self) -> None:
        """Send a heartbeat.

        Raises:
            LeaseLostError: Another process has taken over.
        """
        with self._lock:
            if not self.is_fresh():
                # Another process may be taking over right now: creating the next file decides.
                newest = self._newest()[0]
                if newest != self._number or not self._create(self._number + 1):
                    self._raise_lost()
                return

            self.check()

            started = time.monotonic()
            self._record = replace(self._record, beat=self._record.beat + 1)
            self._store.replace(self._file(self._number), self._record.to_json())
            self._beat_time = started

    def is_fresh(self) -> bool:
        """Return whether the last heartbeat is so young that no other process can take over now."""
        # Others wait for the whole time, from when they first looked: the owner doubts its lease first.
        return time.monotonic() - self._beat_time < LAPSE_SHARE * self._dead_seconds

    def check(self) -> None:
        """Raise LeaseLostError if another process has taken over."""
        if self._store.read(self._file(self._number + 1)) is not None:
            self._raise_lost()

    def release(self) -> None:
        """Let another process own the lease at once.

        Raises:
            LeaseLostError: Another process has taken over.
        """
        with self._lock:
            self.check()
            self._record = replace(self._record, beat=self._record.beat + 1, ended=True)
            self._store.replace(self._file(self._number), self._record.to_json())

    def _create(self, number: int) -> bool:
        """Become the owner with a new file; return False if another process was faster."""
        # Before the write: a slow store must not make the heartbeat look younger than it is.
        started = time.monotonic()
        if not self._store.create(self._file(number), self._record.to_json()):
            return False
        self._number = number
        self._beat_time = started
        return True

    def _raise_lost(self) -> None:
        record = self._newest()[1]
        raise LeaseLostError(record.holder if record else "another process")

    def _wait_for_lapse(self, number: int, record: LeaseRecord, say: Say) -> None:
        """Return when the owner has sent no heartbeat for long enough, or is not the newest any more.

        Raises:
            UserError: The owner has sent a heartbeat.
        """
        say(
            f"{self._what} belongs to {record.holder}, which may have ended. Waiting up to "
            f"{self._dead_seconds:.0f} s for its heartbeat."
        )

        deadline = time.monotonic() + self._dead_seconds
        while time.monotonic() < deadline:
            time.sleep(min(POLL_SECONDS, self._dead_seconds / 10))
            newest_number, newest = self._newest()
            if newest_number != number or newest is None or newest.ended:
                return

            if newest.beat != record.beat:
                raise UserError(
                    f"{self._what} is locked by {newest.holder}, which has just sent a heartbeat. Wait "
                    "until it finishes, or stop it."
                )

    def _newest(self) -> tuple[int, LeaseRecord | None]:
        """Return the highest number and its record; 0 and None before there is one."""
        numbers = [self._number_of(name) for name in self._store.names()]
        for number in sorted((n for n in numbers if n is not None), reverse=True):
            content = self._store.read(self._file(number))
            # A file may be removed while this process reads, but not the newest one.
            if content is not None:
                return number, parse_record(content, self._file(number))
        return 0, None

    def _remove_old_files(self) -> None:
        """Remove files before the previous one: a process that lists now still finds one of the two."""
        for name in self._store.names():
            number = self._number_of(name)
            if number is not None and number < self._number - 1:
                self._store.remove(name)

    def _file(self, number: int) -> str:
        # Number 0 is the file that earlier versions wrote.
        return f"{self._name}.{number:06d}.json" if number else f"{self._name}.json"

    def _number_of(self, name: str) -> int | None:
        if name == f"{self._name}.json":
            return 0
        # Other files of a run may begin with the same word.
        match = re.fullmatch(rf"{re.escape(self._name)}\.(\d{{6,}})\.json", name)
        return int(match[1]) if match else None

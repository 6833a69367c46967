"""Locks with and without flock: one owner, two that compete, a take-over after a crash."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raycomp.errors import LeaseLostError, UserError
from raycomp.storage import lock as module
from raycomp.storage.lease import Lease
from raycomp.storage.lease_files import DirectoryLeaseStore, is_dead_process, own_record
from raycomp.storage.lock import held

ROOT = Path(__file__).parents[3]

# A process that takes a lock on a file system without flock, says so, and holds it until its input ends.
HOLDER = """
import fcntl, os, sys, time
from pathlib import Path
from typing import Any
from raycomp.errors import LeaseLostError, UserError
from raycomp.storage import lease, lock

def no_flock(*_):
    raise OSError(38, "Function not implemented")

fcntl.flock = no_flock
lock.BEAT_SECONDS = 0.1
lease.POLL_SECONDS = 0.05
try:
    with lock.held(Path(sys.argv[1]), "Run x", say=lambda _: None):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / ".lock"


def fail_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stop(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_a_lock_that_another_holds_names_its_owner(path: Path) -> None:
    with (
        held(path, "Run x"),
        pytest.raises(UserError, match=rf"Run x is locked by process {os.getpid()}"),
        held(path, "Run x"),
    ):
        pass
    with held(path, "Run x"):
        assert not list(path.parent.glob("*.owner.*"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_locked_by_a_file(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_flock(monkeypatch, number)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr("raycomp.storage.lease.POLL_SECONDS", 0.02)
    lines: list[str] = []
    with held(path, "Run x", say=lines.append):
        assert os.strerror(number) in lines[0]
        assert "lacks file locks" in lines[0]
        with (
            pytest.raises(UserError, match=r"Run x is locked by process \d+ on .* heartbeat"),
            held(path, "Run x", say=lines.append),
        ):
            pass
    # Released, so that nothing has to be waited for.
    with held(path, "Run x", say=lines.append):
        pass
    assert sum("Waiting up to" in line for line in lines) == 1


def test_another_error_of_a_lock_is_not_taken_for_an_owner(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_flock(monkeypatch, errno.EIO)
    with pytest.raises(UserError, match=r"cannot be locked \(Input/output error\)"), held(path, "Run x"):
        pass


def test_of_two_processes_that_compete_without_flock_one_wins(path: Path) -> None:
    first, second = start(path), start(path)
    try:
        lines = sorted((read_line(first), read_line(second)))
        assert lines[1] == "held"
        assert lines[0].startswith("Run x is locked by process ")
    finally:
        stop(first, second)


def test_a_crashed_owner_of_this_machine_is_replaced_at_once(path: Path) -> None:
    first = start(path)
    assert read_line(first) == "held"
    first.send_signal(signal.SIGKILL)
    first.wait()
    started = time.monotonic()
    second = start(path)
    try:
        assert read_line(second) == "held"
        assert time.monotonic() - started < 30
    finally:
        stop(first, second)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_an_owner_without_heartbeat_is_replaced_and_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    """The owner was suspended: when it wakes, it finds the next owner and must not write.

    A process that a script starts in the background ignores SIGINT.
    """
    fail_flock(monkeypatch, errno.ENOSYS)
    former = signal.signal(signal.SIGINT, handler)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)

    def work() -> None:
        with held(path, "Run x"):
            # Another process waited in vain for a heartbeat, and became the owner.
            store = DirectoryLeaseStore(path.parent)
            assert store.create(".lock.owner.000002.json", own_record().to_json())
            time.sleep(20)

    try:
        with pytest.raises(UserError, match="was taken over by process"):
            work()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, former)


def test_of_many_that_see_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    store = DirectoryLeaseStore(tmp_path)
    dead = Lease(store, "owner", "Run x", dead_seconds=0.3)
    dead.acquire()
    others = [Lease(DirectoryLeaseStore(tmp_path), "owner", "Run x", dead_seconds=0.3) for _ in range(8)]
    winners: list[Lease] = []

    def compete(lease: Lease) -> None:
        try:
            lease.acquire()
        except UserError:
            return
        winners.append(lease)
        # A winner is alive: its heartbeat refuses the others.
        for _ in range(30):
            time.sleep(0.02)
            lease.renew()

    threads = [threading.Thread(target=compete, args=(lease,)) for lease in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    with pytest.raises(LeaseLostError, match="taken over by process"):
        dead.renew()


def test_a_late_owner_takes_its_lease_again_unless_another_was_faster(tmp_path: Path) -> None:
    store = DirectoryLeaseStore(tmp_path)
    lease = Lease(store, "owner", "Run x", dead_seconds=0.2)
    lease.acquire()
    time.sleep(0.15)
    assert not lease.is_fresh()
    lease.renew()
    assert lease.is_fresh()
    assert "owner.000002.json" in store.names()

    time.sleep(0.15)
    other = Lease(store, "owner", "Run x", dead_seconds=0.2)
    other.acquire()
    with pytest.raises(LeaseLostError):
        lease.renew()
    # Also after the files between the two are gone.
    for _ in range(3):
        other.release()
        other = Lease(store, "owner", "Run x", dead_seconds=0.2)
        other.acquire()
    with pytest.raises(LeaseLostError):
        lease.renew()


def test_a_dead_process_is_known_by_its_number_and_start() -> None:
    alive = own_record()
    assert not is_dead_process(alive)
    # Another process has the number by now.
    assert is_dead_process(own_record().__class__(**{**vars(alive), "started": "1"}))
    # The number says nothing on another machine.
    assert not is_dead_process(own_record().__class__(**{**vars(alive), "started": "1", "machine": "b"}))


def test_a_clock_of_another_machine_does_not_matter(tmp_path: Path) -> None:
    """A heartbeat from a clock that is hours late or early counts by its change only."""
    store = DirectoryLeaseStore(tmp_path)
    owner = {"attempt": "a", "holder": "process 7 on b", "beat": 4102444800.0, "ended": False}
    store.create("owner.json", json.dumps(owner).encode())
    lease = Lease(store, "owner", "Run x", dead_seconds=0.2)
    lines: list[str] = []
    previous = lease.acquire(say=lines.append)
    assert previous is not None
    assert (previous.attempt, lines[0].split(", which")[0]) == ("a", "Run x belongs to process 7 on b")

"""The files of a lease: what they contain, and where they are."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from raycomp.errors import UserError, shown


@dataclass(frozen=True)
class LeaseRecord:
    """Content of a file of a lease.

    Attributes:
        attempt: Random name of the owner.
        holder: The owner as messages name it.
        beat: Any number that changes with every heartbeat.
        ended: Whether the owner has released the lease.
        machine: Boot and process namespace of the owner, in which `pid` is unique; may be empty.
        pid: Process of the owner.
        started: When the process started, in ticks since boot; tells it from a later one with its number.
    """

    attempt: str
    holder: str
    beat: float = 0.0
    ended: bool = False
    machine: str = ""
    pid: int = 0
    started: str = ""

    def to_json(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(asdict(self)).encode()


def own_record() -> LeaseRecord:
    """Return the record of this process, with a new attempt."""
    pid = os.getpid()
    return LeaseRecord(
        attempt=uuid.uuid4().hex,
        holder=f"process {pid} on {os.uname().nodename}",
        machine=_machine(),
        pid=pid,
        started=_start_of_process(pid) or "",
    )


def is_dead_process(record: LeaseRecord) -> bool:
    """Return whether the owner is known to be dead: this machine does not have its process any more."""
    if not record.machine or not record.pid or record.machine != _machine():
        return False
    return _start_of_process(record.pid) != record.started


def _machine() -> str:
    """Return a name of this boot and process namespace; empty where the system lacks them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of_process(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    # A zombie has ended.
    return None if fields[0] in "ZX" else fields[19]


def parse_record(content: bytes, name: str) -> LeaseRecord:
    """Return the record of a file.

    Raises:
        UserError: The file is corrupted, or not of raycomp.
    """
    if not content:
        # Its owner is writing it, on a file system without hard links.
        return LeaseRecord(attempt="", holder="another process")

    try:
        data: dict[str, Any] = json.loads(content)
        return LeaseRecord(
            attempt=str(data["attempt"]),
            holder=shown(str(data["holder"])),
            beat=float(data["beat"]),
            ended=bool(data["ended"]),
            machine=str(data.get("machine", "")),
            pid=int(data.get("pid", 0)),
            started=str(data.get("started", "")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name} cannot be read ({error}). Check that its directory is a storage of raycomp."
        ) from None


class LeaseStore(Protocol):
    """The files of a lease, in a directory or at a URL."""

    def names(self) -> list[str]:
        """Return the names of all files next to the lease, at least those of the lease."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Create a file with its content at once; return False if it exists."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Write a file. A reader sees the old or the new content."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        ...


class DirectoryLeaseStore:
    """Files of a lease in a directory of a local or mounted file system.

    Args:
        folder: The directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of the files in the directory."""
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Create a file with its content at once; return False if it exists."""
        hidden = self._write_hidden(name, content)
        try:
            # A link is atomic on NFS too, and the file has its content from the start.
            os.link(hidden, self._folder / name)
        except FileExistsError:
            return False
        except OSError:
            return self._create_without_link(name, content)
        finally:
            hidden.unlink(missing_ok=True)
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a file. A reader sees the old or the new content."""
        self._write_hidden(name, content).replace(self._folder / name)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        (self._folder / name).unlink(missing_ok=True)

    def _write_hidden(self, name: str, content: bytes) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        hidden = self._folder / f".{name}.{uuid.uuid4().hex[:12]}.tmp"
        hidden.write_bytes(content)
        return hidden

    def _create_without_link(self, name: str, content: bytes) -> bool:
        """Create a file on a file system without hard links."""
        try:
            with (self._folder / name).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

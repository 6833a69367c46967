"""The run directory as a process on any node has it: the directory itself, or a replica of it.

A replica belongs to one process. Its files are hard links to copies that its node has made once: writers
replace files and never write into one, so processes do not disturb each other. What the process writes is
sent to the run directory when it calls `push`.

Example:
    >>> run_dir = open_run_dir(Path("/mnt/runs/demo-1f3a9c02"))  # doctest: +SKIP
    >>> write_json(run_dir.folder / "result.json", {"value": 0.9})  # doctest: +SKIP
    >>> run_dir.push()  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from raycomp.errors import UserError
from raycomp.runtime.cluster.actor_filesystem import (
    ActorFileSystem,
    Fence,
    FileEntry,
    find_file_server,
    send_file,
)
from raycomp.runtime.cluster.attempts import check_attempt, start_next_attempt
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import CACHE_DIR, MARKER_FILE, read_marker
from raycomp.runtime.cluster.replica_storage import replica_root
from raycomp.storage.files import atomic_write, read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.lock import try_lock, wait_for_lock
from raycomp.storage.remote import download
from raycomp.storage.sync import FileStamp, copy_order, stamp, visible_files

_RELATIVE = RunLayout(Path())

# No process on another node reads these directories.
NOT_REPLICATED = frozenset(str(path) for path in _RELATIVE.driver_only())

# These are large, and copied only for processes that ask for them.
REPLICATED_ON_REQUEST = frozenset(
    str(_RELATIVE.distillation_parts(kind)) for kind in ("features", "answers")
)


class LocalRunDir:
    """The run directory on a node that sees it. Nothing is copied.

    Attributes:
        folder: The run directory.
    """

    def __init__(self, run_dir: Path, server: Any) -> None:
        """Use the run directory itself.

        Args:
            run_dir: The run directory.
            server: Actor of the run's file server; None if no node needs it.
        """
        self.folder = run_dir
        self._server = server
        self._attempt: Fence | None = None

    def start_attempt(self, training: str) -> str:
        """Write for a new attempt at a training from now on, and return its name.

        Earlier attempts can no longer write. Their workers may be on other nodes.
        """
        if self._server is None:
            attempt = start_next_attempt(RunLayout(self.folder).attempt(training))
        else:
            attempt = str(ray.get(self._server.start_attempt.remote(training)))
        self._attempt = (training, attempt)
        return attempt

    def check_attempt(self) -> None:
        """Check that this process may still write; call it before each write.

        Raises:
            AttemptReplacedError: Another attempt at the training has replaced this one.
        """
        if self._attempt is not None:
            training, attempt = self._attempt
            check_attempt(RunLayout(self.folder).attempt(training), attempt)

    def request(self, extra: str) -> None:
        """Do nothing: all directories are here."""

    def pull(self) -> None:
        """Do nothing: the files are here."""

    def push(self) -> None:
        """Do nothing: the process writes to the run directory."""

    def remove(self, path: Path) -> None:
        """Remove a file of the run.

        Args:
            path: Path in `folder`.
        """
        path.unlink(missing_ok=True)


class RunReplica:
    """A copy of the run directory on a node that does not see it.

    Attributes:
        folder: The replica, to read and to write in.
    """

    def __init__(self, run: str, server: Any, root: Path, extra: str = "") -> None:
        """Create an empty replica; `pull` fills it.

        Args:
            run: Name of the run directory.
            server: Actor of the run's file server.
            root: Directory with all replicas of the run on this node.
            extra: One of REPLICATED_ON_REQUEST that is copied too.
        """
        self.folder = _make_process_folder(root) / run
        self._server = server
        self._files = fs.PyFileSystem(ActorFileSystem(run))
        self._root = root
        self._extra = extra
        self._attempt: Fence | None = None

        # By path: the file of the run directory that was copied or sent, and the local file.
        self._remote_stamps: dict[str, FileStamp] = {}
        self._local_stamps: dict[str, FileStamp] = {}

    def start_attempt(self, training: str) -> str:
        """Write for a new attempt at a training from now on, and return its name.

        Earlier attempts can no longer write. What they have written is copied first.
        """
        attempt = str(ray.get(self._server.start_attempt.remote(training)))
        self._attempt = (training, attempt)
        self.pull()
        return attempt

    def check_attempt(self) -> None:
        """Do nothing: the file server checks each file that `push` sends."""

    def request(self, extra: str) -> None:
        """Copy one of REPLICATED_ON_REQUEST too, from the next `pull` on."""
        self._extra = extra

    def pull(self) -> None:
        """Copy files that are new or changed in the run directory."""
        for entry in self._list_files(self.folder.name):
            if self._is_replicated(entry.path):
                self._copy(entry)

        # The token cache is shared by all runs; only the tokens of this run are copied.
        token_files = sorted(RunLayout(self.folder).tokens.glob("*.json"))
        keys = [read_json(path).get("key") for path in token_files]
        for entry in self._describe_files([f"{CACHE_DIR}/tokens/{key}.arrow" for key in keys]):
            self._copy(entry)

    def push(self) -> None:
        """Send what this process has written to the run directory.

        Raises:
            AttemptReplacedError: Another attempt at the training has replaced this one.
            UserError: The storage there is full or cannot be written.
        """
        root = self.folder.parent
        stamps = {str(path.relative_to(root)): stamp(path) for path in visible_files(self.folder)}
        changed = [name for name in stamps if self._local_stamps.get(name) != stamps[name]]

        # In an order in which an interruption leaves a state that a resumed run understands.
        for name in sorted(changed, key=copy_order):
            send_file(self._server, name, root / name, self._attempt)
            # `pull` must not copy the file back.
            for entry in self._describe_files([name]):
                self._remote_stamps[name] = entry.stamp
            self._local_stamps[name] = stamps[name]

    def remove(self, path: Path) -> None:
        """Remove a file of the run here and in the run directory.

        A file that only disappears here stays in the run directory.

        Args:
            path: Path in `folder`.
        """
        path.unlink(missing_ok=True)
        name = str(path.relative_to(self.folder.parent))
        ray.get(self._server.delete_file.remote(name, self._attempt))
        self._local_stamps.pop(name, None)
        self._remote_stamps.pop(name, None)

    def _list_files(self, base: str) -> list[FileEntry]:
        entries = ray.get(self._server.list_files.remote(base, True, True))
        return [entry for entry in entries if entry.is_file]

    def _describe_files(self, paths: list[str]) -> list[FileEntry]:
        if not paths:
            return []
        entries = ray.get(self._server.describe_files.remote(paths))
        return [entry for entry in entries if entry.is_file]

    def _is_replicated(self, path: str) -> bool:
        parts = Path(path).parts[1:]
        if not parts or any(part.startswith(".") for part in parts):
            return False
        if parts[0] in NOT_REPLICATED:
            return False
        return "/".join(parts[:2]) not in REPLICATED_ON_REQUEST - {self._extra}

    def _copy(self, entry: FileEntry) -> None:
        """Copy a file to this node if it has changed, and link it into the replica."""
        if self._remote_stamps.get(entry.path) == entry.stamp:
            return

        key = hashlib.sha256(f"{entry.path} {entry.stamp}".encode()).hexdigest()[:32]
        cached = self._root / "files" / key
        target = self.folder.parent / entry.path
        cached.parent.mkdir(parents=True, exist_ok=True)

        # One process of this node copies the file, and the others link it. Without locks, several do.
        with cached.with_name(f".{key}.lock").open("a") as lock:
            wait_for_lock(lock)
            if not cached.exists():
                try:
                    download(self._files, entry.path, cached)
                except UserError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        # The file was removed after it was listed.
                        return
                    raise

        atomic_write(target, lambda hidden: os.link(cached, hidden), sync=False)
        self._remote_stamps[entry.path] = entry.stamp
        self._local_stamps[entry.path] = stamp(target)


NodeRunDir = LocalRunDir | RunReplica
"""A run directory as a process on any node has it."""


def open_run_dir(run_dir: Path, extra: str = "") -> NodeRunDir:
    """Open a run directory on this node, and copy its files if the node does not see it.

    Args:
        run_dir: The run directory, as the driver node names it.
        extra: One of REPLICATED_ON_REQUEST that this process needs.

    Raises:
        UserError: This node does not see the directory, and nothing serves its files.
    """
    server = find_file_server(run_dir.name)
    if server is None:
        if not run_dir.is_dir():
            raise UserError(
                f"Node {os.uname().nodename} joined the cluster but cannot access {run_dir}. Mount the "
                "storage on this node, or run the same command again: the files are then sent over the "
                "network."
            )
        return LocalRunDir(run_dir, None)

    node_id, replica_name, nonce = ray.get(server.describe.remote())
    is_driver_node = node_id == ray.get_runtime_context().get_node_id()
    if is_driver_node or read_marker(str(run_dir / MARKER_FILE)) == nonce:
        return LocalRunDir(run_dir, server)

    replica = RunReplica(run_dir.name, server, replica_root(replica_name), extra)
    replica.pull()
    return replica


@contextmanager
def synced_run_dir(run_dir: str, extra: str = "") -> Iterator[Path]:
    """Give a task the run directory, and send what it writes there when the block ends without an error.

    A process keeps its replica from task to task, and copies only what is new.

    Args:
        run_dir: The run directory, as the driver node names it.
        extra: One of REPLICATED_ON_REQUEST that the task needs.
    """
    opened = _opened_run_dirs.get(run_dir)
    if opened is not None:
        try:
            opened.request(extra)
            opened.pull()
        except ray.exceptions.RayActorError:
            # The file server belongs to a former start of this run.
            opened = None
    if opened is None:
        opened = _opened_run_dirs[run_dir] = open_run_dir(Path(run_dir), extra)

    # Not in a `finally`: a task that fails sends nothing.
    yield opened.folder
    opened.push()


_opened_run_dirs: dict[str, NodeRunDir] = {}


def _make_process_folder(root: Path) -> Path:
    """Create a directory for this process, and remove those of processes that have ended.

    The process holds a lock on DIRECTORY.lock until it ends.
    """
    for path in root.glob("*.lock"):
        with suppress(OSError), path.open("a") as file:
            if try_lock(file):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)

    folder = root / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)

    # The lock file gets its name after it is locked: no other process may see it unlocked. The
    # descriptor is never closed, so the lock ends with the process.
    unlocked = folder.with_suffix(".taken")
    descriptor = os.open(unlocked, os.O_WRONLY | os.O_CREAT, 0o600)
    wait_for_lock(descriptor)
    unlocked.rename(folder.with_suffix(".lock"))
    return folder

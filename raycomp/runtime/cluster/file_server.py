"""Access to the run directory for nodes that cannot see it: an actor on the driver node serves its files.

The nodes of a cluster do not need a shared file system. The run directory is on the driver node.
Processes that write there at any moment (the sampler actor, the ledger, study runs) stay on that node.
A training worker, an evaluator or a task on another node opens a `RunReplica`: it copies the files to
that node, and sends back what the process writes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs

from raycomp.errors import UserError
from raycomp.runtime.cluster.actor_filesystem import Fence, FileEntry, file_server_name
from raycomp.runtime.cluster.attempts import check_attempt, start_next_attempt
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import call_on_nodes, on_driver_node
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.cluster.replica_storage import remove_old_replicas, remove_replicas
from raycomp.storage.files import write_error
from raycomp.storage.layout import RunLayout

CACHE_DIR = ".cache"
"""Directory next to the runs; all runs of a storage share its tokens."""

MARKER_FILE = ".seen"
"""File with a random nonce in the run directory. A node that reads the same nonce sees the directory."""

ALLOWED_CHANGES = frozenset(
    {"create_dir", "delete_dir", "delete_dir_contents", "delete_file", "move", "copy_file"}
)


class ServerDescription(NamedTuple):
    """What a process needs to know before it opens a replica.

    Attributes:
        node_id: Ray's id of the driver node.
        replica_name: Name of the directory with replicas of this run on other nodes.
        nonce: Content of MARKER_FILE.
    """

    node_id: str
    replica_name: str
    nonce: str


class RunFileServer:
    """Serves the files of one run; `serve_run_files` starts it as an actor.

    All paths are relative to the storage, and begin with the run's name or with CACHE_DIR.

    Calls over Ray may arrive twice. `write_block` therefore names the position of each block: the same
    call again changes nothing.

    A training may be started again while a worker of the former attempt still runs. Each attempt calls
    `start_attempt` first, and each of its writes names it (`attempts`). So a former attempt cannot
    overwrite files of the current one, also after a restart of the server.
    """

    def __init__(self, run_dir: str) -> None:
        self._storage = Path(run_dir).parent
        self._run = Path(run_dir).name
        self._files = fs.SubTreeFileSystem(str(self._storage), fs.LocalFileSystem())
        self._layout = RunLayout(Path(run_dir))
        self._nonce = secrets.token_hex(8)
        (Path(run_dir) / MARKER_FILE).write_text(self._nonce)

    def describe(self) -> ServerDescription:
        """Return the node of this server, the name of replicas, and the nonce of the run directory."""
        node_id = ray.get_runtime_context().get_node_id()
        # Runs of the same name in two storages need different replicas.
        digest = hashlib.sha256(f"{node_id} {self._storage}".encode()).hexdigest()[:12]
        return ServerDescription(node_id, f"{self._run}-{digest}", self._nonce)

    def describe_files(self, paths: list[str]) -> list[FileEntry]:
        """Return one entry for each path, also for a missing file."""
        infos = self._files.get_file_info([self._check_path(path) for path in paths])
        return [_file_entry(info) for info in infos]

    def list_files(self, base: str, recursive: bool, allow_not_found: bool) -> list[FileEntry]:
        """Return the files and directories in a directory.

        Args:
            base: Path of the directory.
            recursive: Whether to list its subdirectories too.
            allow_not_found: Whether a missing directory counts as empty.
        """
        selector = fs.FileSelector(
            self._check_path(base), recursive=recursive, allow_not_found=allow_not_found
        )
        infos = self._files.get_file_info(selector)
        # A file may disappear while the directory is listed.
        return [
            _file_entry(info)
            for info in infos
            if info.type != fs.FileType.NotFound and self._is_inside(info.path)
        ]

    def change_files(self, method: str, *paths: str) -> None:
        """Create or delete a directory, or delete, move or copy a file.

        Args:
            method: One of ALLOWED_CHANGES, a method of `pyarrow.fs.FileSystem`.
            paths: Arguments of the method.

        Raises:
            FileNotFoundError: The file does not exist.
            UserError: The storage is full or cannot be written.
        """
        if method not in ALLOWED_CHANGES:
            raise ValueError(f"{method!r} is not an allowed change of files")
        names = [self._check_path(path) for path in paths]
        # The client decides what a missing file means; other errors are the user's disk.
        try:
            getattr(self._files, method)(*names)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise write_error(self._storage / names[0], error) from None

    def read_block(self, path: str, start: int, count: int) -> bytes:
        """Return up to `count` bytes of a file from byte `start` on."""
        with (self._storage / self._check_path(path)).open("rb") as file:
            file.seek(start)
            return file.read(count)

    def delete_file(self, path: str, fence: Fence | None) -> None:
        """Delete a file; a missing file is already deleted.

        Raises:
            AttemptReplacedError: Another attempt has started since.
        """
        self._check_fence(fence)
        (self._storage / self._check_path(path)).unlink(missing_ok=True)

    def write_block(
        self, path: str, token: str, start: int, block: bytes, is_last: bool, fence: Fence | None = None
    ) -> None:
        """Write a block of a file. The file appears at its path when the last block has arrived.

        The same call again changes nothing.

        Args:
            path: Path of the file.
            token: Random name of this transfer; it differs for each file that a process sends.
            start: Position of the block in the file, in bytes.
            block: The bytes.
            is_last: Whether this is the last block.
            fence: Training and attempt of the writer.

        Raises:
            AttemptReplacedError: Another attempt has started since.
            UserError: The storage is full or cannot be written.
        """
        self._check_fence(fence)
        target = self._storage / self._check_path(path)
        hidden = target.with_name(f".{target.name}.{token}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if start and not hidden.exists():
                # This call arrived before and completed the file, but its reply was lost.
                return

            with hidden.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.write(block)
                if is_last:
                    file.flush()
                    os.fsync(file.fileno())
            if is_last:
                hidden.replace(target)
        except OSError as error:
            hidden.unlink(missing_ok=True)
            raise write_error(target, error) from None

    def start_attempt(self, training: str) -> str:
        """Let a new attempt write files of a training, refuse all earlier ones, and return its name."""
        return start_next_attempt(self._layout.attempt(training))

    def _check_fence(self, fence: Fence | None) -> None:
        if fence is not None:
            training, attempt = fence
            check_attempt(self._layout.attempt(training), attempt)

    def _check_path(self, path: str) -> str:
        """Return a path, or raise PermissionError if it leads out of the run."""
        parts = Path(path).parts
        if not parts or parts[0] not in (self._run, CACHE_DIR) or ".." in parts:
            raise PermissionError(f"{path!r} is not a file of run {self._run}")
        if not self._is_inside(path):
            raise PermissionError(f"{path!r} is a link that leads out of run {self._run}")
        return path

    def _is_inside(self, path: str) -> bool:
        """Return whether no link inside of the run, or of the cache, leads a path out of it."""
        # The two directories themselves may be links of the user's.
        root = (self._storage / Path(path).parts[0]).resolve()
        return (self._storage / path).resolve().is_relative_to(root)


def _file_entry(info: fs.FileInfo) -> FileEntry:
    return FileEntry(info.path, int(info.type), info.size or 0, info.mtime_ns or 0)


@contextmanager
def serve_run_files(run_dir: Path, progress: Progress, *, elastic: bool = False) -> Iterator[None]:
    """Let every node of the cluster access a run directory while the block runs.

    Nodes that see the directory at the same path use it directly. For the others a `RunFileServer` on
    this node serves its files.

    Args:
        run_dir: The run directory.
        progress: Output that names the nodes which do not see the directory.
        elastic: Whether nodes may join later. Then the server always runs, because they may not see it.

    Raises:
        UserError: This process is not on a node of the cluster.
    """
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    # On a single node nothing has to be checked.
    blind_nodes: list[str] = []
    if len(addresses) > 1:
        blind_nodes = _blind_nodes(run_dir, list(addresses))
    if not blind_nodes and not elastic:
        yield
        return

    driver_node = ray.get_runtime_context().get_node_id()
    if driver_node in blind_nodes:
        raise UserError(
            "This machine is not a node of the Ray cluster, so the workers cannot read "
            f"{run_dir.parent}. Run the command on a node of the cluster, or use `raycomp submit`."
        )
    if blind_nodes:
        names = ", ".join(sorted(addresses[node] for node in blind_nodes))
        progress.say(
            f"{len(blind_nodes)} of {len(addresses)} nodes cannot access {run_dir.parent} ({names}). "
            "This node sends them the files of the run."
        )

    call_on_nodes(remove_old_replicas, [node for node in addresses if node != driver_node])
    server = _start_server(run_dir)
    replica_name = ray.get(server.describe.remote()).replica_name
    try:
        yield
    finally:
        # Without a server a process on another node finds nothing to write to.
        ray.kill(server)
        (run_dir / MARKER_FILE).unlink(missing_ok=True)
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        other_nodes = [node for node in alive if node != driver_node]
        call_on_nodes(remove_replicas, other_nodes, replica_name)


def _start_server(run_dir: Path) -> Any:
    return (
        ray.remote(RunFileServer)
        .options(
            name=file_server_name(run_dir.name),
            num_cpus=0,
            scheduling_strategy=on_driver_node(),
            max_restarts=-1,
            max_task_retries=-1,
        )
        .remote(str(run_dir))
    )


def is_visible_to_all_nodes(folder: Path) -> bool:
    """Return whether every node of the cluster sees a directory of this machine at the same path."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return len(nodes) < 2 or not _blind_nodes(folder, nodes)


def _blind_nodes(run_dir: Path, nodes: list[str]) -> list[str]:
    """Return the nodes that do not see a directory of this machine."""
    nonce = secrets.token_hex(8)
    marker = run_dir / MARKER_FILE
    marker.write_text(nonce)
    try:
        contents = call_on_nodes(read_marker, nodes, str(marker))
    finally:
        marker.unlink(missing_ok=True)
    return [node for node in nodes if contents.get(node) != nonce]


def read_marker(path: str) -> str:
    """Return the content of a marker file; empty if this node does not see it."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""

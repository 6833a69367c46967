"""A run's folder for nodes that do not see it: its files pass through an actor beside the driver.

Nodes of a cluster need no folder in common. The run lives where its driver is, at home. What writes
there at every moment (the sampler's actor, the ledger, a study's cells) stays on that node; a training
worker, an evaluator or a task elsewhere makes a `RunReplica`, which brings the files over and sends back
what it wrote.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from raycomp.errors import AttemptReplacedError, UserError
from raycomp.runtime.cluster.actor_filesystem import FileEntry, file_server_name
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import call_on_nodes, on_driver_node
from raycomp.runtime.cluster.progress import Progress
from raycomp.storage.files import write_error
from raycomp.storage.remote import work_root

CACHE_DIR = ".cache"  # beside the runs
MARKER_FILE = ".seen"  # a file by which a node finds that it sees a run's folder


class RunFileServer:
    """Gives and takes the files of one run; wrapped by `ray.remote` where it is started.

    All paths are below the folder that the run's lies in, and begin with the run's name or TOKENS.
    """

    def __init__(self, run_dir: str) -> None:
        self._root, self._run = Path(run_dir).parent, Path(run_dir).name
        self._files = fs.SubTreeFileSystem(str(self._root), fs.LocalFileSystem())
        self._attempts: dict[str, str] = {}
        self._word = secrets.token_hex(8)
        (Path(run_dir) / MARKER_FILE).write_text(self._word)

    def facts(self) -> tuple[str, str, str]:
        """Return this node, a name for copies of the run's folder, and the word that SEEN holds in it."""
        node = ray.get_runtime_context().get_node_id()
        where = hashlib.sha256(f"{node} {self._root}".encode()).hexdigest()[:12]
        return node, f"{self._run}-{where}", self._word

    def info(self, paths: list[str]) -> list[FileEntry]:
        """Return what is known of some paths."""
        return [_found(i) for i in self._files.get_file_info([self._inside(p) for p in paths])]

    def below(self, base: str, recursive: bool, allow_not_found: bool) -> list[FileEntry]:
        """Return what lies below a folder; a file that goes meanwhile is left out."""
        chosen = fs.FileSelector(self._inside(base), recursive=recursive, allow_not_found=allow_not_found)
        return [_found(i) for i in self._files.get_file_info(chosen) if i.type != fs.FileType.NotFound]

    def change(self, what: str, *paths: str) -> None:
        """Make or remove a folder, or remove, move or copy a file."""
        if what not in CHANGES:
            raise ValueError(f"no change {what!r}")
        where = [self._inside(p) for p in paths]
        try:
            getattr(self._files, what)(*where)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise write_error(self._root / where[0], error) from None

    def read(self, path: str, first: int, count: int) -> bytes:
        """Return some bytes of a file."""
        with (self._root / self._inside(path)).open("rb") as file:
            file.seek(first)
            return file.read(count)

    def write(self, path: str, token: str, first: int, block: bytes, last: bool) -> None:
        """Take some bytes of a file, which appears whole when the last ones are here.

        Args:
            path: the file's.
            token: of the sender, one for each file that it writes.
            first: where in the file the bytes belong.
            block: the bytes.
            last: whether no more come. The same call again changes nothing.

        Raises:
            UserError: the storage is full or cannot be written.
        """
        target = self._root / self._inside(path)
        hidden = target.with_name(f".{target.name}.{token}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if first and not hidden.exists():
                return  # the reply was lost, and the file stands
            with hidden.open("r+b" if first else "wb") as file:
                file.seek(first)
                file.write(block)
                if last:
                    file.flush()
                    os.fsync(file.fileno())
            if last:
                hidden.replace(target)
        except OSError as error:
            hidden.unlink(missing_ok=True)
            raise write_error(target, error) from None

    def enter(self, training: str, attempt: str) -> None:
        """Let an attempt write for a training, and no earlier one any more."""
        self._attempts[training] = attempt

    def check(self, training: str, attempt: str) -> None:
        """Raise AttemptReplacedError where another attempt entered since."""
        if self._attempts.setdefault(training, attempt) != attempt:
            raise AttemptReplacedError(
                f"attempt {attempt} at {training} was replaced: it may write no more"
            )

    def _inside(self, path: str) -> str:
        parts = Path(path).parts
        if not parts or parts[0] not in (self._run, CACHE_DIR) or ".." in parts:
            raise PermissionError(f"{path!r} is no file of {self._run}")
        return path


CHANGES = frozenset(
    {"create_dir", "delete_dir", "delete_dir_contents", "delete_file", "move", "copy_file"}
)


def _found(info: fs.FileInfo) -> FileEntry:
    return info.path, int(info.type), info.size or 0, info.mtime_ns or 0


def is_visible_to_all_nodes(folder: Path) -> bool:
    """Return whether every node of the cluster sees a folder of this machine."""
    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
    return len(nodes) < 2 or not _blind(folder, nodes)


@contextmanager
def serve_run_files(run_dir: Path, progress: Progress, *, elastic: bool = False) -> Iterator[None]:
    """Let every node of the cluster reach a run's folder while the block runs.

    Nodes that see the folder, at the same path, use it. For those that do not, files pass through this
    node's `RunFileServer`.

    Args:
        run_dir: the run's folder.
        progress: is told which nodes do not see it.
        elastic: whether nodes that join later are to reach it too, whatever they see.

    Raises:
        UserError: this process is on no node of the cluster.
    """
    nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
    blind = _blind(run_dir, list(nodes)) if len(nodes) > 1 else []
    if not blind and not elastic:
        yield
        return
    me = ray.get_runtime_context().get_node_id()
    if me in blind:
        raise UserError(
            f"{run_dir.parent} is a folder of this machine, which is no node of the cluster; run the "
            "command on one of its nodes, or use `raycomp submit`"
        )
    if blind:
        where = ", ".join(sorted(nodes[n] for n in blind))
        progress.say(
            f"{len(blind)} of {len(nodes)} nodes do not see {run_dir.parent} ({where}): the run's files "
            "pass through this node"
        )
    home = (
        ray.remote(RunFileServer)
        .options(
            name=file_server_name(run_dir.name), num_cpus=0, scheduling_strategy=on_driver_node(),
            max_restarts=-1, max_task_retries=-1,
        )
        .remote(str(run_dir))
    )  # fmt: skip
    _, folder, _ = ray.get(home.facts.remote())
    try:
        yield
    finally:
        ray.kill(home)
        (run_dir / MARKER_FILE).unlink(missing_ok=True)
        others = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != me]
        call_on_nodes(_forget, others, folder)


def _blind(run_dir: Path, nodes: list[str]) -> list[str]:
    """Return the nodes that do not see a folder of this machine."""
    word, marker = secrets.token_hex(8), run_dir / MARKER_FILE
    marker.write_text(word)
    try:
        said = call_on_nodes(read_marker, nodes, str(marker))
    finally:
        marker.unlink(missing_ok=True)
    return [node for node in nodes if said.get(node) != word]


def read_marker(path: str) -> str:
    """Return what a marker holds; nothing where this node does not see it."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def replica_root(folder: str) -> Path:
    """Return where this node keeps what visits of a run brought over."""
    return work_root() / "visits" / folder


def _forget(folder: str) -> None:
    shutil.rmtree(replica_root(folder), ignore_errors=True)

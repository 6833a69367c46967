"""A run's folder as a worker, evaluator or task has it: the folder itself, or a copy on a node without.

A copy is one process's own. Its files are links to what this node has brought over once, for writers
replace files and never write into one. What the process wrote is sent home when it says so.
"""

from __future__ import annotations

import fcntl
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
from raycomp.runtime.cluster.actor_filesystem import ActorFileSystem, find_file_server, send
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import CACHE_DIR, MARKER_FILE, read_marker, replica_root
from raycomp.storage.files import atomic_write, read_json
from raycomp.storage.remote import download

# Nobody reads these on another node.
NOT_REPLICATED = frozenset(
    {"train", "tune", "exports", "tensorboard", "predictions", "progress", "mlflow", "wandb"}
)
REPLICATED_ON_REQUEST = frozenset({"adabert/features", "adabert/answers"})

Mark = tuple[int, int]


class RunReplica:
    """A run's folder on this node.

    Attributes:
        folder: the run's, to read and to write in.
    """

    def __init__(self, run_dir: Path, also: str = "") -> None:
        """Bring the run's files over, where this node does not see its folder.

        Args:
            run_dir: the run's folder at home.
            also: one of LARGE, to be brought too.

        Raises:
            UserError: the node sees no such folder, and nobody gives its files.
        """
        self.folder, self.also = run_dir, also
        home = find_file_server(run_dir.name)
        self._home: Any = None
        self._fence: Any = None
        self._attempt: tuple[str, str] | None = None
        if home is None:
            if not run_dir.is_dir():
                raise UserError(
                    f"node {os.uname().nodename} joined and does not see {run_dir}, as the others do; "
                    "mount the storage there, or start the run again: it then sends files to that node"
                )
            return
        self._fence = home
        node, kept, word = ray.get(home.facts.remote())
        if (
            node == ray.get_runtime_context().get_node_id()
            or read_marker(str(run_dir / MARKER_FILE)) == word
        ):
            return
        self._home = home
        self._files = fs.PyFileSystem(ActorFileSystem(run_dir.name))
        self._there: dict[str, Mark] = {}  # by path: the file at home that was brought or sent
        self._here: dict[str, Mark] = {}  # the file here that it became
        self._kept = replica_root(kept)
        self.folder = _own_folder(self._kept) / run_dir.name
        self.pull()

    def enter(self, training: str, attempt: str) -> None:
        """Write from now on for an attempt at a training: earlier ones may write no more.

        What they wrote until now is brought over.
        """
        if self._fence is not None:
            ray.get(self._fence.enter.remote(training, attempt))
            self._attempt = (training, attempt)
            self.pull()

    def pull(self) -> None:
        """Bring over what is new or changed at home."""
        if self._home is None:
            return
        run = self.folder.name
        for path, kind, *mark in ray.get(self._home.below.remote(run, True, True)):
            parts = Path(path).parts[1:]
            wanted = (
                parts and parts[0] not in NOT_REPLICATED and not any(p.startswith(".") for p in parts)
            )
            wanted = wanted and "/".join(parts[:2]) not in REPLICATED_ON_REQUEST - {self.also}
            if kind == int(fs.FileType.File) and wanted:
                self._bring(path, (mark[0], mark[1]))
        keys = [read_json(p).get("key") for p in sorted((self.folder / "tokens").glob("*.json"))]
        names = [f"{CACHE_DIR}/tokens/{key}.arrow" for key in keys]
        for path, kind, *mark in ray.get(self._home.info.remote(names)) if names else []:
            if kind == int(fs.FileType.File):
                self._bring(path, (mark[0], mark[1]))

    def push(self) -> None:
        """Send home what was written here; small JSON files, which say what is whole, last.

        Raises:
            AttemptReplacedError: another attempt at the training took this one's place.
            UserError: the storage there is full or cannot be written.
        """
        if self._home is None:
            return
        if self._attempt is not None:
            ray.get(self._home.check.remote(*self._attempt))
        root = self.folder.parent
        found = {str(p.relative_to(root)): _mark(p) for p in _files(self.folder)}
        for path in sorted((n for n, m in found.items() if self._here.get(n) != m), key=_rank):
            send(self._home, path, root / path)
            _, _, *mark = ray.get(self._home.info.remote([path]))[0]
            self._there[path], self._here[path] = (mark[0], mark[1]), found[path]

    def remove(self, path: Path) -> None:
        """Remove a file of the run here and at home. What is only gone here stays there.

        Args:
            path: below `folder`.
        """
        path.unlink(missing_ok=True)
        if self._home is not None:
            name = str(path.relative_to(self.folder.parent))
            with suppress(FileNotFoundError):
                ray.get(self._home.change.remote("delete_file", name))
            self._here.pop(name, None)
            self._there.pop(name, None)

    def _bring(self, path: str, mark: Mark) -> None:
        if self._there.get(path) == mark:
            return
        key = hashlib.sha256(f"{path} {mark}".encode()).hexdigest()[:32]
        kept, target = self._kept / "kept" / key, self.folder.parent / path
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.with_name(f".{key}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process of this node brings it, the others link it
            if not kept.exists():
                try:
                    download(self._files, path, kept)
                except UserError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        return  # it went while we looked
                    raise
        atomic_write(target, lambda hidden: os.link(kept, hidden), sync=False)
        self._there[path], self._here[path] = mark, _mark(target)


@contextmanager
def synced_run_dir(run_dir: str, also: str = "") -> Iterator[Path]:
    """Give a run's folder to a task, and send home what it writes there.

    A process keeps its copy from task to task, and brings over what is new.

    Args:
        run_dir: the run's folder at home.
        also: one of LARGE, to be brought too.
    """
    visit = _known.get(run_dir)
    if visit is not None:
        try:
            visit.also = also
            visit.pull()
        except ray.exceptions.RayActorError:  # of a start of this run that ended
            visit = None
    if visit is None:
        visit = _known[run_dir] = RunReplica(Path(run_dir), also)
    yield visit.folder
    visit.push()


_known: dict[str, RunReplica] = {}


def _own_folder(kept: Path) -> Path:
    """Make a folder of this process's own, and remove those of processes that are gone."""
    for lock in kept.glob("*.lock"):
        with suppress(OSError), lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    folder = kept / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    hidden = folder.with_suffix(".taken")
    fcntl.flock(
        os.open(hidden, os.O_WRONLY | os.O_CREAT, 0o600), fcntl.LOCK_EX
    )  # until this process ends
    hidden.rename(folder.with_suffix(".lock"))
    return folder


def _files(folder: Path) -> list[Path]:
    return [
        p for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]  # fmt: skip


def _mark(path: Path) -> Mark:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _rank(path: str) -> tuple[int, str]:
    return ({".parquet": 0, ".json": 2}.get(Path(path).suffix, 1), path)

"""A run's folder for nodes that do not see it: its files pass through an actor beside the driver.

Nodes of a cluster need no folder in common. The run lives where its driver is, at home. What writes
there at every moment (the sampler's actor, the ledger, a study's cells) stays on that node; a training
worker, an evaluator or a task elsewhere makes a `Visit`, which brings the files over and sends back
what it wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from raycomp.errors import UserError
from raycomp.remote import work_root
from raycomp.runtime.cluster import at_home, ray
from raycomp.runtime.progress import Progress
from raycomp.tables import refused

BLOCK = 1 << 24  # bytes of a file that one call carries
TOKENS = ".cache"  # beside the runs
SEEN = ".seen"  # a file by which a node finds that it sees a run's folder

Found = tuple[str, int, int, int]
"""A path, its kind (`fs.FileType`), bytes, and when it was changed, in ns."""


class Replaced(RuntimeError):
    """The caller writes for an attempt at a training that another one took the place of."""


class Home:
    """Gives and takes the files of one run; wrapped by `ray.remote` where it is started.

    All paths are below the folder that the run's lies in, and begin with the run's name or TOKENS.
    """

    def __init__(self, run_dir: str) -> None:
        self._root, self._run = Path(run_dir).parent, Path(run_dir).name
        self._files = fs.SubTreeFileSystem(str(self._root), fs.LocalFileSystem())
        self._attempts: dict[str, str] = {}
        self._word = secrets.token_hex(8)
        (Path(run_dir) / SEEN).write_text(self._word)

    def facts(self) -> tuple[str, str, str]:
        """Return this node, a name for copies of the run's folder, and the word that SEEN holds in it."""
        node = ray.get_runtime_context().get_node_id()
        where = hashlib.sha256(f"{node} {self._root}".encode()).hexdigest()[:12]
        return node, f"{self._run}-{where}", self._word

    def info(self, paths: list[str]) -> list[Found]:
        """Return what is known of some paths."""
        return [_found(i) for i in self._files.get_file_info([self._inside(p) for p in paths])]

    def below(self, base: str, recursive: bool, allow_not_found: bool) -> list[Found]:
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
            raise refused(self._root / where[0], error) from None

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
            raise refused(target, error) from None

    def enter(self, training: str, attempt: str) -> None:
        """Let an attempt write for a training, and no earlier one any more."""
        self._attempts[training] = attempt

    def check(self, training: str, attempt: str) -> None:
        """Raise Replaced where another attempt entered since."""
        if self._attempts.setdefault(training, attempt) != attempt:
            raise Replaced(f"attempt {attempt} at {training} was replaced: it may write no more")

    def _inside(self, path: str) -> str:
        parts = Path(path).parts
        if not parts or parts[0] not in (self._run, TOKENS) or ".." in parts:
            raise PermissionError(f"{path!r} is no file of {self._run}")
        return path


CHANGES = frozenset(
    {"create_dir", "delete_dir", "delete_dir_contents", "delete_file", "move", "copy_file"}
)


def _found(info: fs.FileInfo) -> Found:
    return info.path, int(info.type), info.size or 0, info.mtime_ns or 0


class HomeFiles(fs.FileSystemHandler):
    """What `Home` gives and takes, for all that pyarrow and Ray Train do with a file system."""

    def __init__(self, run: str) -> None:
        self.run = run

    @property
    def _home(self) -> Any:
        return ray.get_actor(_name(self.run))

    def _call(self, what: str, *args: Any) -> Any:
        return ray.get(getattr(self._home, what).remote(*args))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HomeFiles) and other.run == self.run

    def __hash__(self) -> int:
        return hash(self.run)

    def get_type_name(self) -> str:
        """Return what pyarrow calls this."""
        return "raycomp-home"

    def normalize_path(self, path: str) -> str:
        """Return a path without what does not matter in it."""
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return what is known of some paths."""
        return [_info(f) for f in self._call("info", [self.normalize_path(p) for p in paths])]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Return what lies below a folder."""
        base = self.normalize_path(selector.base_dir)
        return [_info(f) for f in self._call("below", base, selector.recursive, selector.allow_not_found)]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Make a folder."""
        self._call("change", "create_dir", self.normalize_path(path))

    def delete_dir(self, path: str) -> None:
        """Remove a folder."""
        self._call("change", "delete_dir", self.normalize_path(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Remove what lies in a folder."""
        with contextlib.suppress(*([FileNotFoundError] if missing_dir_ok else [])):
            self._call("change", "delete_dir_contents", self.normalize_path(path))

    def delete_root_dir_contents(self) -> None:
        """Refuse: other runs lie there."""
        raise PermissionError("the storage itself is not to be emptied")

    def delete_file(self, path: str) -> None:
        """Remove a file."""
        self._call("change", "delete_file", self.normalize_path(path))

    def move(self, src: str, dest: str) -> None:
        """Move a file or folder."""
        self._call("change", "move", self.normalize_path(src), self.normalize_path(dest))

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file."""
        self._call("change", "copy_file", self.normalize_path(src), self.normalize_path(dest))

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open a file to read."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file to read, at any place."""
        name = self.normalize_path(path)
        _, kind, size, _ = self._call("info", [name])[0]
        if kind != int(fs.FileType.File):
            raise FileNotFoundError(f"there is no file {name}")
        return pa.PythonFile(_Reader(self._home, name, size), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Open a file to write; it appears when it is closed."""
        return pa.PythonFile(_Writer(self._home, self.normalize_path(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Refuse: files are written whole."""
        raise NotImplementedError("files of a run are replaced, never added to, from elsewhere")


class _Reader(io.RawIOBase):
    def __init__(self, home: Any, name: str, size: int) -> None:
        self._home, self._name, self._size, self._at = home, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        blocks = []
        while wanted:
            block = ray.get(self._home.read.remote(self._name, self._at, min(wanted, BLOCK)))
            if not block:
                break  # it became shorter
            blocks.append(block)
            self._at += len(block)
            wanted -= len(block)
        return b"".join(blocks)


class _Writer(io.RawIOBase):
    def __init__(self, home: Any, name: str) -> None:
        self._home, self._name, self._token = home, name, uuid.uuid4().hex
        self._held, self._sent, self._failed = bytearray(), 0, False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held += memoryview(data)
        if len(self._held) >= BLOCK:
            self._send(last=False)
        return len(data)

    def _send(self, *, last: bool) -> None:
        block, self._held = bytes(self._held), bytearray()
        self._failed = True  # until the answer: what was cut off must not appear as whole
        ray.get(self._home.write.remote(self._name, self._token, self._sent, block, last))
        self._sent, self._failed = self._sent + len(block), False

    def drop(self) -> None:
        """Let the file at home stay as it is."""
        self._failed = True

    def close(self) -> None:
        if not self.closed and not self._failed:
            self._send(last=True)
        super().close()


def send(home: Any, name: str, path: Path) -> None:
    """Write a file of the run at home, from one here; where that fails, the old one stays."""
    with path.open("rb") as source:
        writer = _Writer(home, name)
        try:
            while block := source.read(BLOCK):
                writer.write(block)
        except BaseException:
            writer.drop()
            raise
        writer.close()


def _info(found: Found) -> fs.FileInfo:
    path, kind, size, changed = found
    return fs.FileInfo(path, fs.FileType(kind), size=size, mtime_ns=changed)


def home_of(run: str) -> Any:
    """Return the actor that gives and takes a run's files; None where all nodes see the folder."""
    if not ray.is_initialized():  # else Ray starts here, or joins what it finds
        return None
    try:
        return ray.get_actor(_name(run))
    except ValueError:
        return None


def files_of(run_dir: Path, folder: str) -> tuple[str, fs.FileSystem | None]:
    """Return a folder of a run as Ray Train's storage: path, and what it is a path of."""
    if home_of(run_dir.name) is None:
        return str(run_dir / folder), None
    return f"{run_dir.name}/{folder}", fs.PyFileSystem(HomeFiles(run_dir.name))


def seen_by_all(folder: Path) -> bool:
    """Return whether every node of the cluster sees a folder of this machine."""
    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
    return len(nodes) < 2 or not _blind(folder, nodes)


def beside_writers(shared: bool) -> Any:
    """Return the strategy of a task that drives trainings of its own, started by a trial of Ray Tune.

    It leaves the trial's placement group, in which nothing that it starts would find room.

    Args:
        shared: whether all nodes see what it writes; else it stays on this node.
    """
    return PlacementGroupSchedulingStrategy(placement_group=None) if shared else at_home()


@contextmanager
def opened_to_nodes(run_dir: Path, progress: Progress, *, growing: bool = False) -> Iterator[None]:
    """Let every node of the cluster reach a run's folder while the block runs.

    Nodes that see the folder, at the same path, use it. For those that do not, files pass through this
    node's `Home`.

    Args:
        run_dir: the run's folder.
        progress: is told which nodes do not see it.
        growing: whether nodes that join later are to reach it too, whatever they see.

    Raises:
        UserError: this process is on no node of the cluster.
    """
    nodes = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
    blind = _blind(run_dir, list(nodes)) if len(nodes) > 1 else []
    if not blind and not growing:
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
        ray.remote(Home)
        .options(
            name=_name(run_dir.name), num_cpus=0, scheduling_strategy=at_home(), max_restarts=-1,
            max_task_retries=-1,
        )
        .remote(str(run_dir))
    )  # fmt: skip
    _, folder, _ = ray.get(home.facts.remote())
    try:
        yield
    finally:
        ray.kill(home)
        (run_dir / SEEN).unlink(missing_ok=True)
        others = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != me]
        _on_each(_forget, others, folder)


def _name(run: str) -> str:
    return f"home-{run}"


def _blind(run_dir: Path, nodes: list[str]) -> list[str]:
    """Return the nodes that do not see a folder of this machine."""
    word, marker = secrets.token_hex(8), run_dir / SEEN
    marker.write_text(word)
    try:
        said = _on_each(read_word, nodes, str(marker))
    finally:
        marker.unlink(missing_ok=True)
    return [node for node in nodes if said.get(node) != word]


def _on_each(task: Any, nodes: list[str], *args: Any) -> dict[str, Any]:
    """Call a function on each of some nodes; return what it said there, of nodes that are still here."""
    look = ray.remote(num_cpus=0, max_retries=0)(task)
    asked = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[node] = look.options(scheduling_strategy=where).remote(*args)
    said = {}
    for node, answer in asked.items():
        with contextlib.suppress(ray.exceptions.RayError):
            said[node] = ray.get(answer)
    return said


def read_word(path: str) -> str:
    """Return what a marker holds; nothing where this node does not see it."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def visits(folder: str) -> Path:
    """Return where this node keeps what visits of a run brought over."""
    return work_root() / "visits" / folder


def _forget(folder: str) -> None:
    shutil.rmtree(visits(folder), ignore_errors=True)

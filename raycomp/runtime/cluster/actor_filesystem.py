"""What the actor of `home.py` gives and takes, as a file system: for visits, and for Ray Train."""

from __future__ import annotations

import contextlib
import io
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raycomp.runtime.cluster.connect import ray

BLOCK = 1 << 24  # bytes of a file that one call carries

FileEntry = tuple[str, int, int, int]
"""A path, its kind (`fs.FileType`), bytes, and when it was changed, in ns."""


def file_server_name(run: str) -> str:
    """Return the name of a run's home among Ray's actors."""
    return f"home-{run}"


def find_file_server(run: str) -> Any:
    """Return the actor that gives and takes a run's files; None where all nodes see the folder."""
    if not ray.is_initialized():  # else Ray starts here, or joins what it finds
        return None
    try:
        return ray.get_actor(file_server_name(run))
    except ValueError:
        return None


def train_storage(run_dir: Path, folder: str) -> tuple[str, fs.FileSystem | None]:
    """Return a folder of a run as Ray Train's storage: path, and what it is a path of."""
    if find_file_server(run_dir.name) is None:
        return str(run_dir / folder), None
    return f"{run_dir.name}/{folder}", fs.PyFileSystem(ActorFileSystem(run_dir.name))


class ActorFileSystem(fs.FileSystemHandler):
    """What `RunFileServer` gives and takes, for all that pyarrow and Ray Train do with a file system."""

    def __init__(self, run: str) -> None:
        self.run = run

    @property
    def _home(self) -> Any:
        return ray.get_actor(file_server_name(self.run))

    def _call(self, what: str, *args: Any) -> Any:
        return ray.get(getattr(self._home, what).remote(*args))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorFileSystem) and other.run == self.run

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
        raise PermissionError("files of a run are replaced, never added to, from elsewhere")


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


def _info(found: FileEntry) -> fs.FileInfo:
    path, kind, size, changed = found
    return fs.FileInfo(path, fs.FileType(kind), size=size, mtime_ns=changed)

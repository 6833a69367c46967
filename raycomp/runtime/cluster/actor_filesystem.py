"""A pyarrow file system over the actor `RunFileServer`: for replicas, and for Ray Train's storage."""

from __future__ import annotations

import contextlib
import io
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from raycomp.runtime.cluster.connect import ray

BLOCK_BYTES = 1 << 24
"""Most bytes of a file that one call carries."""


Fence = tuple[str, str]
"""A training and the attempt at it that writes; see `attempts`."""


class FileEntry(NamedTuple):
    """A file or directory of the storage, as the file server describes it.

    Attributes:
        path: Path relative to the storage; it begins with the run's name.
        kind: A value of `pyarrow.fs.FileType`.
        size: Size in bytes.
        mtime_ns: Time of the last change, in ns.
    """

    path: str
    kind: int
    size: int
    mtime_ns: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind == int(fs.FileType.File)

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of the last change: a file with another stamp has changed."""
        return self.size, self.mtime_ns


def file_server_name(run: str) -> str:
    """Return the name of a run's file server among Ray's actors."""
    # `actors.kill_actors` finds a run's actors by names of this form.
    return f"files-{run}"


def find_file_server(run: str) -> Any:
    """Return the actor that serves a run's files; None if every node can access the run directory."""
    # Without this check Ray would start a cluster here, or join one that it finds.
    if not ray.is_initialized():
        return None
    try:
        return ray.get_actor(file_server_name(run))
    except ValueError:
        return None


def train_storage(run_dir: Path, folder: str) -> tuple[str, fs.FileSystem | None]:
    """Return Ray Train's storage in a run directory.

    Args:
        run_dir: The run directory.
        folder: Directory in it.

    Returns:
        A path, and the file system that it belongs to. None is the local file system.
    """
    if find_file_server(run_dir.name) is None:
        return str(run_dir / folder), None
    return f"{run_dir.name}/{folder}", fs.PyFileSystem(ActorFileSystem(run_dir.name))


class ActorFileSystem(fs.FileSystemHandler):
    """The files of one run, read and written through its file server.

    Example:
        >>> files = fs.PyFileSystem(ActorFileSystem("demo-1f3a9c02"))  # doctest: +SKIP
        >>> with files.open_input_file("demo-1f3a9c02/facts.json") as file:  # doctest: +SKIP
        ...     content = file.read()
    """

    def __init__(self, run: str) -> None:
        self.run = run

    @property
    def _server(self) -> Any:
        # Looked up for each call: where Ray Train unpickles the file system, it has only the run's name.
        return ray.get_actor(file_server_name(self.run))

    def _call(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self._server, method).remote(*args))

    def _change(self, method: str, *paths: str) -> None:
        self._call("change_files", method, *(self.normalize_path(path) for path in paths))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorFileSystem) and other.run == self.run

    def __hash__(self) -> int:
        return hash(self.run)

    def get_type_name(self) -> str:
        """Return the name of this kind of file system."""
        return "raycomp-actor"

    def normalize_path(self, path: str) -> str:
        """Return a path without leading and trailing slashes."""
        return path.strip("/")

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return size, kind and time of each path."""
        names = [self.normalize_path(path) for path in paths]
        return [_file_info(entry) for entry in self._call("describe_files", names)]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Return size, kind and time of the files in a directory."""
        base = self.normalize_path(selector.base_dir)
        entries = self._call("list_files", base, selector.recursive, selector.allow_not_found)
        return [_file_info(entry) for entry in entries]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Create a directory, and those above it."""
        # The server always creates the directories above, as Ray Train expects it.
        self._change("create_dir", path)

    def delete_dir(self, path: str) -> None:
        """Delete a directory with everything in it."""
        self._change("delete_dir", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Delete everything in a directory."""
        # Without a class nothing is suppressed.
        expected = [FileNotFoundError] if missing_dir_ok else []
        with contextlib.suppress(*expected):
            self._change("delete_dir_contents", path)

    def delete_root_dir_contents(self) -> None:
        """Refuse, because the storage has other runs too."""
        raise PermissionError("the storage itself must not be emptied")

    def delete_file(self, path: str) -> None:
        """Delete a file."""
        self._change("delete_file", path)

    def move(self, src: str, dest: str) -> None:
        """Rename a file or directory."""
        self._change("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file."""
        self._change("copy_file", src, dest)

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open a file to read it from its beginning."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file to read any part of it.

        Raises:
            FileNotFoundError: The path does not exist, or is a directory.
        """
        name = self.normalize_path(path)
        entry = FileEntry(*self._call("describe_files", [name])[0])
        if not entry.is_file:
            raise FileNotFoundError(f"{name} does not exist or is not a file")
        return pa.PythonFile(_Reader(self._server, name, entry.size), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Open a file to write it. It appears at its path when it is closed."""
        return pa.PythonFile(_Writer(self._server, self.normalize_path(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Refuse, because files of a run are replaced as a whole."""
        raise PermissionError("files of a run can be replaced, but not appended to, from another node")


class _Reader(io.RawIOBase):
    """A file of the run, read block by block."""

    def __init__(self, server: Any, name: str, size: int) -> None:
        self._server = server
        self._name = name
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = max(0, origins[whence] + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        if size is not None and size >= 0:
            left = min(size, left)

        # One call carries a block at most, because its bytes are in memory on both nodes.
        blocks = []
        while left:
            count = min(left, BLOCK_BYTES)
            block = ray.get(self._server.read_block.remote(self._name, self._position, count))
            if not block:
                # The file has become shorter since it was opened.
                break
            blocks.append(block)
            self._position += len(block)
            left -= len(block)
        return b"".join(blocks)


class _Writer(io.RawIOBase):
    """A file of the run, written block by block. The server shows it when the last block has arrived."""

    def __init__(self, server: Any, name: str, fence: Fence | None = None) -> None:
        self._server = server
        self._name = name
        self._fence = fence
        self._token = uuid.uuid4().hex
        self._buffer = bytearray()
        self._num_sent = 0
        self._is_dropped = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += memoryview(data)
        if len(self._buffer) >= BLOCK_BYTES:
            self._send_block(is_last=False)
        return len(data)

    def _send_block(self, *, is_last: bool) -> None:
        block = bytes(self._buffer)
        self._buffer = bytearray()

        # Until the reply arrives: if this call fails, `close` must not complete the file.
        self._is_dropped = True
        ray.get(
            self._server.write_block.remote(
                self._name, self._token, self._num_sent, block, is_last, self._fence
            )
        )
        self._is_dropped = False
        self._num_sent += len(block)

    def drop(self) -> None:
        """Leave the file in the run directory as it is."""
        self._is_dropped = True

    def close(self) -> None:
        if not self.closed and not self._is_dropped:
            self._send_block(is_last=True)
        super().close()


def send_file(server: Any, name: str, path: Path, fence: Fence | None = None) -> None:
    """Copy a local file to the run directory. If that fails, the former file there is unchanged.

    Args:
        server: Actor of the file server.
        name: Path in the storage.
        path: Path of the local file.
        fence: Training and attempt of the writer.
    """
    with path.open("rb") as source:
        writer = _Writer(server, name, fence)
        try:
            while block := source.read(BLOCK_BYTES):
                writer.write(block)
        except BaseException:
            writer.drop()
            raise
        writer.close()


def _file_info(entry: FileEntry) -> fs.FileInfo:
    path, kind, size, mtime_ns = entry
    return fs.FileInfo(path, fs.FileType(kind), size=size, mtime_ns=mtime_ns)

"""Runs on S3, Google Cloud Storage or any URL that pyarrow opens: worked on in a folder, mirrored.

A run is written in a local folder, where a rename is atomic, and copied to the URL while it runs and
when it ends. A run that was cut off goes on from the folder where that is the newer, else from the
URL, on whatever machine: at most what was written since the last copy is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from raycomp.errors import UserError
from raycomp.tables import atomic_write

EVERY = 20.0  # seconds between copies
DEAD = 120.0  # seconds without a sign of life after which a run may be taken over
HOLDER = "holder.json"


def is_url(storage: str | Path) -> bool:
    """Whether a storage is a URL and no path."""
    return "://" in str(storage)


def is_figure(name: str) -> bool:
    """Whether a file holds figures, not weights or text: what reports and queries read."""
    kept = name.endswith(".npy") and "/predictions/" in f"/{name}"
    return kept or name.endswith(".parquet") or (name.endswith(".json") and "/exports/" not in f"/{name}")


@contextmanager
def opened(storage: str | Path, run: str) -> Iterator[Path]:
    """Give the folder to run in; where the storage is a URL, mirror the run to it meanwhile.

    Args:
        storage: a path, or a URL such as s3://bucket/runs or gs://bucket/runs.
        run: the run's id.

    Raises:
        UserError: the URL cannot be read or written, or another process works on the run.
    """
    if not is_url(storage):
        yield Path(storage)
        return
    mirror = Mirror(str(storage), run)
    mirror.take()
    stop = threading.Event()
    thread = threading.Thread(target=mirror.keep, args=(stop,), name="mirror", daemon=True)
    thread.start()
    try:
        yield mirror.folder.parent
    finally:
        stop.set()
        thread.join()
        mirror.close()


def fetched(path: str | Path, wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """Return a path as it is; of a URL a local copy, brought up to date.

    Args:
        path: of a run or of a storage.
        wanted: which files, by their path below it.

    Raises:
        UserError: the URL cannot be read, or holds nothing.
    """
    if not is_url(path):
        return Path(path)
    remote = _open(str(path))
    url, _ = _split(str(path))
    folder = work_folder(url) / "read" / url.rpartition("/")[2]
    found = {name: info for name, info in _listed(remote, url).items() if wanted(name)}
    if not found:
        raise UserError(f"{url} holds no file of a run; give a run's URL, or that of a storage")
    for name, info in found.items():
        target = folder / name
        known = target.with_name(f".{target.name}.seen")
        mark = f"{info.size} {info.mtime_ns}"
        if target.exists() and known.exists() and known.read_text() == mark:
            continue
        _download(remote, name, target)
        known.write_text(mark)
    for target in [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]:
        if str(target.relative_to(folder)) not in found:
            target.unlink()
    return folder


def work_folder(url: str) -> Path:
    """Return the folder in which runs of a URL are worked on: below RAYCOMP_WORK, or the user's cache."""
    given = os.environ.get("RAYCOMP_WORK")
    root = Path(given) if given else Path.home() / ".cache" / "raycomp"
    return root / hashlib.sha256(_split(url)[0].encode()).hexdigest()[:12]


def _split(url: str) -> tuple[str, str]:
    """Return a URL without its options and its last "/", and the options with their "?"."""
    place, mark, options = url.partition("?")
    return place.rstrip("/"), mark + options


class Mirror:
    """One run's folder and its copy.

    Attributes:
        folder: where the run is worked on.
    """

    def __init__(self, url: str, run: str) -> None:
        self._url, options = _split(url)
        self._remote = _open(f"{self._url}/{run}{options}")
        self.folder = work_folder(url) / run
        self._attempt = self.folder.parent / f".{run}.attempt"
        self._me = uuid.uuid4().hex
        self._copied: dict[str, tuple[int, int]] = {}
        self._lost: str | None = None

    def take(self) -> None:
        """Become the run's holder, and bring the folder up to date.

        Raises:
            UserError: another process works on the run, or the URL cannot be used.
        """
        holder = self._holder()
        mine = self._attempt.read_text() if self._attempt.exists() else ""
        if holder and holder["attempt"] != mine:
            silent = time.time() - float(holder["beat"])
            if not holder["ended"] and silent < DEAD:
                raise UserError(
                    f"run {self.folder.name} at {self._url} is being worked on by {holder['holder']} "
                    f"(last sign of life {silent:.0f} s ago); wait for it, end it first, or try again "
                    f"when it has been silent for {DEAD:.0f} s"
                )
            shutil.rmtree(self.folder, ignore_errors=True)  # what stands there is newer
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        names = [n for n in self._names() if n != HOLDER]
        if not self.folder.exists() and names:
            for name in names:
                _download(self._remote, name, self.folder / name)
                self._copied[name] = _mark(self.folder / name)
        self._attempt.write_text(self._me)
        self._beat(ended=False)

    def keep(self, stop: threading.Event) -> None:
        """Copy until `stop`; a failed copy is tried again at the next turn."""
        while not stop.wait(EVERY):
            try:
                if not self._still_mine():
                    return
                self.push()
                self._beat(ended=False)
            except (OSError, pa.ArrowException, UserError):
                continue

    def close(self) -> None:
        """Copy a last time, and let go of the run.

        Raises:
            UserError: the URL cannot be written, or another process took the run over.
        """
        try:
            if self._still_mine() and self.folder.exists():
                for _ in range(3):
                    if self.push():
                        break
            if self._lost is None:
                self._beat(ended=True)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"the run stands whole in {self.folder}, but {self._url} cannot be written ({error}); "
                "the same command copies it"
            ) from None
        if self._lost is not None:
            raise UserError(
                f"run {self.folder.name} at {self._url} was taken over by {self._lost}: this process was "
                "silent for too long, and nothing more of it was copied"
            )

    def push(self) -> bool:
        """Copy what changed, so that the copy is one that a run can go on from at any moment.

        Small JSON files say what is whole. They are read first and copied last, after tables and
        weights that they speak of; what is gone from the folder is removed at the very end.

        Returns:
            Whether the folder kept still: else the copy is as it was, but for files that nothing names.
        """
        marks: dict[str, tuple[int, int]] = {}
        says: dict[str, bytes] = {}
        for path in sorted(self.folder.rglob("*"), key=_rank):
            name = str(path.relative_to(self.folder))
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            try:
                if path.is_file():
                    marks[name] = _mark(path)
                    if path.suffix == ".json":
                        says[name] = path.read_bytes()
            except FileNotFoundError:
                continue
        for name, mark in marks.items():
            if name in says or self._copied.get(name) == mark:
                continue
            try:
                self._upload(name, (self.folder / name).read_bytes())
            except FileNotFoundError:
                return False
            self._copied[name] = mark
        for name, content in says.items():
            if self._copied.get(name) != marks[name]:
                self._upload(name, content)
                self._copied[name] = marks[name]
        for name in self._names():
            if name not in marks and name != HOLDER:
                self._remote.delete_file(name)
                self._copied.pop(name, None)
        return True

    def _names(self) -> list[str]:
        return list(_listed(self._remote, self._url))

    def _holder(self) -> dict[str, Any] | None:
        try:
            with self._remote.open_input_stream(HOLDER) as file:
                found = json.loads(file.read())
            return {"attempt": found["attempt"], "holder": str(found["holder"]),
                    "beat": float(found["beat"]), "ended": bool(found["ended"])}  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._url} cannot be read ({error}); is it a raycomp storage?") from None

    def _still_mine(self) -> bool:
        holder = self._holder()
        if holder is not None and holder["attempt"] != self._me:
            self._lost = holder["holder"]
        return self._lost is None

    def _beat(self, *, ended: bool) -> None:
        holder = f"process {os.getpid()} on {os.uname().nodename}"
        said = {"attempt": self._me, "holder": holder, "beat": time.time(), "ended": ended}
        try:
            self._upload(HOLDER, json.dumps(said).encode())
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"storage {self._url} cannot be written ({error}); check its name and your credentials"
            ) from None

    def _upload(self, name: str, content: bytes) -> None:
        if self._remote.base_fs.type_name != "s3":  # there a folder would be an object of its own
            self._remote.create_dir(str(Path(name).parent), recursive=True)
        with self._remote.open_output_stream(name) as file:
            file.write(content)


def _rank(path: Path) -> tuple[int, str]:
    """Tables come before the checkpoints that count on them."""
    return (0 if path.suffix == ".parquet" else 1, str(path))


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _open(url: str) -> fs.SubTreeFileSystem:
    try:
        base, path = fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"storage {url!r} cannot be opened ({error}); give a folder, or a URL such as "
            "s3://bucket/runs, gs://bucket/runs or file:///mnt/runs"
        ) from None
    return fs.SubTreeFileSystem(path, base)


def _listed(remote: fs.SubTreeFileSystem, url: str) -> dict[str, fs.FileInfo]:
    try:
        found = remote.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{url} cannot be read ({error}); check its name and your credentials") from None
    return {info.path: info for info in found if info.type == fs.FileType.File}


def _download(remote: fs.SubTreeFileSystem, name: str, target: Path) -> None:
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"the storage holds a file {name!r}, which lies outside of its run; remove it")
    try:
        with remote.open_input_stream(name) as file:
            content = file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} cannot be read from the storage ({error})") from None
    atomic_write(target, lambda hidden: hidden.write_bytes(content))

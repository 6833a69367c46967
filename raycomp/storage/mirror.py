"""A run's folder and its copy at a URL: who holds it, what is copied when, and in which order."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycomp.errors import UserError, first_line
from raycomp.storage.files import atomic_write
from raycomp.storage.remote import download, listed, open_url, split_url, upload, work_folder

DEAD = 120.0  # seconds without a sign of life after which a run may be taken over
HOLDER = "holder.json"


class Mirror:
    """One run's folder and its copy.

    Attributes:
        folder: where the run is worked on.
    """

    def __init__(self, url: str, run: str) -> None:
        self._url, options = split_url(url)
        self._remote = open_url(f"{self._url}/{run}{options}")
        self.folder = work_folder(url) / run
        self._attempt = self.folder.parent / f".{run}.attempt"
        self._me = uuid.uuid4().hex
        self._copied: dict[str, tuple[int, int]] = {}
        self._lost: str | None = None
        self._told = False

    def take(self) -> None:
        """Become the run's holder, and bring the folder up to date.

        Raises:
            UserError: another process works on the run, or the URL cannot be used.
        """
        holder = self._holder()
        mine = self._attempt.read_text().split() if self._attempt.exists() else []
        if holder and holder["attempt"] not in mine:
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
                download(self._remote, name, self.folder / name)
                self._copied[name] = _mark(self.folder / name)
        # Until the URL knows the new name, the old one counts too: this start may end here.
        atomic_write(self._attempt, lambda hidden: hidden.write_text("\n".join([*mine, self._me])))
        self._beat(ended=False)
        atomic_write(self._attempt, lambda hidden: hidden.write_text(self._me))

    def copy(self) -> bool:
        """Copy what changed; what fails is said once and tried again. False: the run was taken over."""
        try:
            if self._still_mine():
                self.push()
        except (OSError, pa.ArrowException, UserError) as error:
            if not self._told:
                logging.getLogger("raycomp").warning(
                    "%s cannot be written (%s); the run goes on in %s, and it is tried again",
                    self._url, first_line(error), self.folder,
                )  # fmt: skip
            self._told = True
        return self._lost is None

    def beat(self) -> bool:
        """Give a sign of life. False: the run was taken over."""
        with contextlib.suppress(OSError, pa.ArrowException, UserError):  # `copy` says so
            if self._still_mine():
                self._beat(ended=False)
        return self._lost is None

    def close(self, end_beating: Callable[[], None] = lambda: None) -> None:
        """Copy a last time, and let go of the run.

        Args:
            end_beating: ends the thread that gives signs of life.

        Raises:
            UserError: the URL cannot be written, or another process took the run over.
        """
        try:
            try:
                if self._still_mine() and self.folder.exists():
                    for _ in range(3):
                        if self.push():
                            break
            finally:
                end_beating()
            if self._still_mine():
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
        aside = self.folder.parent / f".{self.folder.name}.aside"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            return self._push(aside)
        except FileNotFoundError:
            return False
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _push(self, aside: Path) -> bool:
        marks: dict[str, tuple[int, int]] = {}
        says: dict[str, bytes] = {}
        for path in sorted(self.folder.rglob("*"), key=_rank):
            name = str(path.relative_to(self.folder))
            if any(part.startswith(".") for part in Path(name).parts) or not path.is_file():
                continue
            marks[name] = _mark(path)
            if path.suffix == ".json":
                says[name] = path.read_bytes()
            elif self._copied.get(name) != marks[name]:
                _aside(path, aside / name)  # a checkpoint may be gone before it is copied
        first: dict[str, bytes | Path] = {n: aside / n for n in marks if n not in says}
        for name, content in (first | says).items():
            if self._lost is not None:
                return False
            if self._copied.get(name) != marks[name]:
                self._upload(name, content)
                self._copied[name] = marks[name]
        if not self._still_mine():  # the next holder's files must stay
            return False
        for name in self._names():
            if name not in marks and name != HOLDER:
                self._remote.delete_file(name)
                self._copied.pop(name, None)
        return True

    def _names(self) -> list[str]:
        return list(listed(self._remote, self._url))

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

    def _upload(self, name: str, content: bytes | Path) -> None:
        upload(self._remote, name, content)


def _rank(path: Path) -> tuple[int, str]:
    """Tables come before the checkpoints that count on them."""
    return (0 if path.suffix == ".parquet" else 1, str(path))


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _aside(path: Path, target: Path) -> None:
    """Give a file a second name, so that it stays; a copy where the storage has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, target)

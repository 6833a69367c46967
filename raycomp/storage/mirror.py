"""A run directory and its copy at a URL: who owns the run, what is copied, and in which order."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from raycomp.errors import LeaseLostError, UserError, first_line
from raycomp.storage.bucket_lease import open_lease_store
from raycomp.storage.copied_files import CopiedFiles
from raycomp.storage.files import atomic_write
from raycomp.storage.lease import DEAD_SECONDS, Lease, Say
from raycomp.storage.remote import download, listed, open_url, split_url, upload, work_folder
from raycomp.storage.sync import FileStamp, copy_order, stamp, visible_files

DEAD = DEAD_SECONDS
"""Seconds without a heartbeat after which another process can take over a run."""

HOLDER = "holder"
"""First part of the names of the lease's files at the URL."""

LAST_COPIES = 3
"""Largest number of copies at the end of a run. Files can still change during the first one."""


class Mirror:
    """One run directory and its copy at a URL.

    The owner of the run calls `take`, then `copy` and `beat` repeatedly from two threads, then `close`.

    Attributes:
        folder: The local run directory.
    """

    def __init__(self, url: str, run: str) -> None:
        self._url, options = split_url(url)
        run_url = f"{self._url}/{run}{options}"
        self._remote = open_url(run_url)
        store = open_lease_store(self._remote, run_url)
        self._lease = Lease(store, HOLDER, f"Run {run} at {self._url}", dead_seconds=DEAD)
        self.folder = work_folder(url) / run
        self._attempt_file = self.folder.parent / f".{run}.attempt"
        self._copied = CopiedFiles(self.folder.parent / f".{run}.copied.json")
        self._new_owner: str | None = None
        self._has_warned = False

    def take(self, say: Say = lambda _: None) -> None:
        """Become the owner of the run, and update the local run directory.

        Args:
            say: Receiver of a line while this process waits for the heartbeat of an earlier owner.

        Raises:
            UserError: Another process owns the run, or the URL cannot be used.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        own_attempts = self._attempt_file.read_text().split() if self._attempt_file.exists() else []

        try:
            newest = self._lease.newest_owner()
            if newest is not None and newest.attempt not in own_attempts:
                # Another machine has continued the run: the local run directory is old.
                own_attempts = []
                self._write_attempts([])
            else:
                # Until the URL has the new attempt, the old ones count too: this process may end here.
                self._write_attempts([*own_attempts, self._lease.attempt])

            previous = self._lease.acquire(own_attempts, say)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"The storage {self._url} cannot be used ({first_line(error)}). Check its name and your "
                "credentials."
            ) from None

        try:
            if previous is not None and previous.attempt not in own_attempts:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._complete_folder()
            self._write_attempts([self._lease.attempt])
        except BaseException:
            # Another start need not wait for the heartbeat of this one.
            with contextlib.suppress(OSError, pa.ArrowException, LeaseLostError):
                self._lease.release()
            raise

    def copy(self) -> bool:
        """Copy changed files. An error is logged once, and the next call tries again.

        Returns:
            Whether this process still owns the run.
        """
        try:
            if self._is_owner():
                self.push()
        except (OSError, pa.ArrowException, UserError) as error:
            if not self._has_warned:
                logging.getLogger("raycomp").warning(
                    "%s cannot be written (%s). The run continues in %s, and the copy is tried again.",
                    self._url,
                    first_line(error),
                    self.folder,
                )
            self._has_warned = True
        return self._new_owner is None

    def beat(self) -> bool:
        """Send a heartbeat.

        Returns:
            Whether this process still owns the run.
        """
        # `copy` logs errors.
        with contextlib.suppress(OSError, pa.ArrowException, UserError):
            try:
                self._lease.renew()
            except LeaseLostError as error:
                self._new_owner = error.owner
        return self._new_owner is None

    def close(self, end_beating: Callable[[], None] = lambda: None) -> None:
        """Copy a last time, and release the run.

        Args:
            end_beating: Function that ends the thread of the heartbeats.

        Raises:
            UserError: The URL cannot be written, or another process took over the run.
        """
        try:
            try:
                self._copy_to_the_end()
            finally:
                # The heartbeats continue during the copy, which can take longer than DEAD.
                end_beating()
            if self._is_owner():
                self._lease.release()
        except LeaseLostError as error:
            self._new_owner = error.owner
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"The run is saved in {self.folder}, but uploading it to {self._url} failed ({error}). "
                "Run the same command again to upload it."
            ) from None

        if self._new_owner is not None:
            raise UserError(
                f"Run {self.folder.name} at {self._url} was taken over by {self._new_owner}, because "
                f"this process sent no heartbeat for {DEAD:.0f} s. Later changes were not uploaded. Run "
                "the same command again when the other process has finished."
            )

    def push(self) -> bool:
        """Copy changed files to the URL.

        The run can be resumed from the copy at any moment, also if this process ends in between:

        1. All files that will be copied are fixed: changed JSON files are read, and other changed files
           get a second name. A run removes old checkpoints while files are copied.
        2. Tables are copied first, then checkpoints and other files. A checkpoint counts on the rows of
           the tables.
        3. JSON files are copied last. They say which other files are complete.
        4. Files that the run has removed are removed from the URL.

        Before 4, ownership is checked: if another process has taken over, its files stay.

        Returns:
            Whether everything was copied. False if a file disappeared during the copy, or if another
            process owns the run.
        """
        aside = self.folder.parent / f".{self.folder.name}.aside"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            contents, stamps = self._fix_contents(aside)
            return self._upload_changed(contents, stamps) and self._remove_others(set(stamps))
        except FileNotFoundError:
            return False
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _fix_contents(self, aside: Path) -> tuple[dict[str, bytes | Path], dict[str, FileStamp]]:
        """Return what has changed, in the order of the copy, and the stamp of every file (step 1)."""
        # Tables come first: a checkpoint that is fixed later then has its rows.
        names = [str(path.relative_to(self.folder)) for path in visible_files(self.folder)]
        names.sort(key=lambda name: (not name.endswith(".parquet"), name))
        contents: dict[str, bytes | Path] = {}
        stamps: dict[str, FileStamp] = {}
        for name in names:
            path = self.folder / name
            stamps[name] = stamp(path)
            if self._copied.has(name, stamps[name]):
                continue
            if path.suffix == ".json":
                contents[name] = path.read_bytes()
            else:
                _link_or_copy(path, aside / name)
                contents[name] = aside / name
        return {name: contents[name] for name in sorted(contents, key=copy_order)}, stamps

    def _upload_changed(self, contents: dict[str, bytes | Path], stamps: dict[str, FileStamp]) -> bool:
        """Upload changed files; return whether this process still owns the run."""
        for name, content in contents.items():
            # The thread of the heartbeats notices a new owner. A process that was suspended asks itself.
            if self._new_owner is not None or not (self._lease.is_fresh() or self._is_owner()):
                return False
            self._upload(name, content)
            self._copied.add(name, stamps[name])
        return True

    def _remove_others(self, names: set[str]) -> bool:
        """Remove all other files from the URL (step 4); return whether this process owns the run."""
        if not self._is_owner():
            return False
        copies = self._list_copies()
        for name in copies:
            if name not in names:
                self._remote.delete_file(name)
                self._copied.discard(name)
        self._copied.save(copies)
        return True

    def _copy_to_the_end(self) -> None:
        if not self._is_owner() or not self.folder.exists():
            return
        for _ in range(LAST_COPIES):
            if self.push():
                break

    def _complete_folder(self) -> None:
        """Download the run if the local run directory is missing; else find out what is copied."""
        copies = self._list_copies()
        if self.folder.exists():
            self._copied.load(copies)
            return
        if not copies:
            return

        # An incomplete download must not count as the run.
        hidden = self.folder.parent / f".{self.folder.name}.download"
        shutil.rmtree(hidden, ignore_errors=True)
        for name in copies:
            download(self._remote, name, hidden / name)
            self._copied.add(name, stamp(hidden / name))

        hidden.rename(self.folder)
        self._copied.save(copies)

    def _write_attempts(self, attempts: list[str]) -> None:
        atomic_write(self._attempt_file, lambda hidden: hidden.write_text("\n".join(attempts)))

    def _list_copies(self) -> dict[str, fs.FileInfo]:
        """Return the files of the run at the URL, without those of the lease."""
        files = listed(self._remote, self._url)
        return {name: info for name, info in files.items() if not self._lease.is_lease_file(name)}

    def _is_owner(self) -> bool:
        """Return whether this process still owns the run, as the URL says."""
        if self._new_owner is None:
            try:
                if self._lease.is_fresh():
                    self._lease.check()
                else:
                    self._lease.renew()
            except LeaseLostError as error:
                self._new_owner = error.owner
        return self._new_owner is None

    def _upload(self, name: str, content: bytes | Path) -> None:
        upload(self._remote, name, content)


def _link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it if the storage does not support hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, target)

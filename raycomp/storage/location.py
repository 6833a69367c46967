"""Runs on S3, Google Cloud Storage or any URL that pyarrow opens: worked on in a folder, mirrored.

A run is written in a local folder, where a rename is atomic, and copied to the URL while it runs and
when it ends. A run that was cut off goes on from the folder where that is the newer, else from the
URL, on whatever machine: at most what was written since the last copy is done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raycomp.errors import UserError
from raycomp.storage.lock import held
from raycomp.storage.mirror import Mirror
from raycomp.storage.remote import download, listed, open_url, split_url, work_folder

EVERY = 20.0  # seconds between copies, and between signs of life


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
    # A second start on this machine would pass for the first one gone on with.
    lock = mirror.folder.parent / f".{run}.lock"
    with held(lock, f"run {run}", "name another working folder by RAYCOMP_WORK"):
        mirror.take()
        copying = _every(mirror.copy, "mirror")
        beating = _every(mirror.beat, "heartbeat")  # of its own: a large file takes long to copy
        try:
            yield mirror.folder.parent
        finally:
            copying()
            mirror.close(beating)


def _every(work: Callable[[], bool], name: str) -> Callable[[], None]:
    """Call `work` every EVERY seconds in a thread until it returns False; return what ends that."""
    stop = threading.Event()

    def turns() -> None:
        while not stop.wait(EVERY) and work():
            pass

    thread = threading.Thread(target=turns, name=name, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


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
    remote = open_url(str(path))
    url, _ = split_url(str(path))
    folder = work_folder(url) / "read" / url.rpartition("/")[2]
    found = {name: info for name, info in listed(remote, url).items() if wanted(name)}
    if not found:
        raise UserError(f"{url} holds no file of a run; give a run's URL, or that of a storage")
    for name, info in found.items():
        target = folder / name
        known = target.with_name(f".{target.name}.seen")
        mark = f"{info.size} {info.mtime_ns}"
        if target.exists() and known.exists() and known.read_text() == mark:
            continue
        download(remote, name, target)
        known.write_text(mark)
    for target in [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]:
        if str(target.relative_to(folder)) not in found:
            target.unlink()
    return folder

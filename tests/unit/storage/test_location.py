"""A run on a URL: mirrored while it is written, taken up on any machine, held by one process."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raycomp.errors import UserError
from raycomp.storage import location
from raycomp.storage import mirror as module
from raycomp.storage.lease_files import DirectoryLeaseStore
from raycomp.storage.location import fetched, is_figure, is_url, opened
from raycomp.storage.mirror import Mirror
from raycomp.storage.remote import open_url, upload

RUN = "job-12345678"


@dataclass(frozen=True)
class Storage:
    """Storage of runs at a URL, as several machines use it.

    Attributes:
        path: Directory of all files of a test.
        monkeypatch: Sets the machine.
    """

    path: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def url(self) -> str:
        return f"file://{self.path}/bucket/runs"

    @property
    def copy(self) -> Path:
        """Directory of the run's copy in the storage."""
        return self.path / "bucket" / "runs" / RUN

    def on(self, machine: str) -> Storage:
        """Work as if on a machine: with a folder of its own."""
        self.monkeypatch.setenv("RAYCOMP_WORK", str(self.path / machine))
        return self

    def opened(self) -> AbstractContextManager[Path]:
        return opened(self.url, RUN)

    def take(self, files: Mapping[str, str] | None = None) -> Mirror:
        """Return a mirror that holds the run, with these files in its folder."""
        mirror = Mirror(self.url, RUN)
        mirror.take()
        for name, text in (files or {}).items():
            put(mirror.folder, name, text)
        return mirror

    def write(self, files: Mapping[str, str]) -> None:
        """Open the run, write these files, and close it."""
        with self.opened() as folder:
            for name, text in files.items():
                put(folder / RUN, name, text)

    def read(self, name: str) -> str:
        """Open the run and return the text of a file."""
        with self.opened() as folder:
            return (folder / RUN / name).read_text()

    def files(self) -> dict[str, str]:
        """Return name and text of the files of the copy, without those that say who holds the run."""
        files = [path for path in self.copy.rglob("*") if path.is_file()]
        texts = {str(path.relative_to(self.copy)): path.read_text() for path in files}
        return {name: text for name, text in texts.items() if not name.startswith(module.HOLDER)}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Return the storage, as the first machine uses it."""
    return Storage(tmp_path, monkeypatch).on("one")


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@contextmanager
def beating(mirror: Mirror) -> Iterator[None]:
    """Send heartbeats, as the thread of a run does."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.02):
            mirror.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path, RUN) as folder:
        assert folder == tmp_path
    assert fetched(tmp_path) == tmp_path
    assert [is_url(s) for s in ("runs", Path("/runs"), "s3://b/runs")] == [False, False, True]


def test_what_is_written_and_removed_is_so_there(storage: Storage) -> None:
    storage.write(
        {
            "tables/steps/a.parquet": "1",
            "done.json": "{}",
            ".lock": "process 7",
            "tables/steps/.b.parquet.tmp": "half",
        }
    )
    assert storage.files() == {"tables/steps/a.parquet": "1", "done.json": "{}"}
    with storage.opened() as folder:
        put(folder / RUN, "tables/steps/a.parquet", "12")
        (folder / RUN / "done.json").unlink()
    assert storage.files() == {"tables/steps/a.parquet": "12"}


def test_another_machine_goes_on_where_the_first_ended(storage: Storage) -> None:
    storage.write({"a.json": "1"})
    storage.on("two")
    with storage.opened() as folder:
        assert (folder / RUN / "a.json").read_text() == "1"
        put(folder / RUN, "a.json", "2")
    storage.on("one")
    assert storage.read("a.json") == "2"  # its own folder is the older


def test_a_killed_process_goes_on_from_its_own_folder(storage: Storage) -> None:
    killed = storage.take({"a.json": "1"})
    assert killed.push()
    put(killed.folder, "a.json", "2")  # and dies before it is copied
    assert storage.read("a.json") == "2"
    assert storage.files() == {"a.json": "2"}


def record_uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which the name of each uploaded file is added."""
    names: list[str] = []
    upload = Mirror._upload

    def record(self: Mirror, name: str, content: bytes | Path) -> None:
        names.append(name)
        upload(self, name, content)

    monkeypatch.setattr(Mirror, "_upload", record)
    return names


def test_a_restart_uploads_only_what_changed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("weights", "tables/a.parquet", "tables/b.parquet", "a.json")
    first = storage.take(dict.fromkeys(names, "1"))
    assert first.push()
    put(first.folder, "tables/b.parquet", "2")  # and the process is killed

    uploads = record_uploads(monkeypatch)
    storage.write({"tables/c.parquet": "3"})
    assert sorted(uploads) == ["tables/b.parquet", "tables/c.parquet"]

    # A machine that has downloaded the run does not upload it again.
    storage.on("two")
    uploads.clear()
    with storage.opened():
        pass
    with storage.opened():
        pass
    assert uploads == []
    # A copy that somebody else has replaced or removed is uploaded again.
    (storage.copy / "weights").write_text("other")
    (storage.copy / "a.json").unlink()
    with storage.opened():
        pass
    assert sorted(uploads) == ["a.json", "weights"]
    assert storage.files()["weights"] == "1"


def test_a_download_that_was_interrupted_is_not_taken_for_the_run(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write({"a.json": "1", "weights": "many"})
    storage.on("two")

    def fail(remote: object, name: str, target: Path) -> None:
        if name == "weights":
            raise UserError("weights cannot be read from the storage")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("1")

    with monkeypatch.context() as patched:
        patched.setattr(module, "download", fail)
        with pytest.raises(UserError, match="cannot be read"):
            storage.take()
    assert storage.read("weights") == "many"
    assert storage.files() == {"a.json": "1", "weights": "many"}


def test_an_owner_that_wakes_late_asks_before_it_writes(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended inside of a copy, for longer than others wait for its heartbeat."""
    monkeypatch.setattr(module, "DEAD", 0.4)
    first = storage.take(dict.fromkeys("abc", "1"))
    second: list[Mirror] = []
    upload = first._upload

    def suspended(name: str, content: bytes | Path) -> None:
        upload(name, content)
        if name == "a":
            storage.on("two")
            second.append(storage.take())

    monkeypatch.setattr(first, "_upload", suspended)
    assert not first.push()
    assert storage.files() == {"a": "1"}
    with pytest.raises(UserError, match="was taken over by process"):
        first.close()


def test_a_run_of_an_earlier_version_is_continued(storage: Storage) -> None:
    """It had one file for its owner."""
    root = storage.copy
    put(root, "a.json", "1")
    owner = {"attempt": "x", "holder": "process 7 on b", "beat": time.time(), "ended": True}
    put(root, "holder.json", json.dumps(owner))
    with storage.opened() as folder:
        assert (folder / RUN / "a.json").read_text() == "1"
        assert not list((folder / RUN).glob("holder*"))
    assert storage.files() == {"a.json": "1"}


def test_one_process_holds_a_run(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    first = storage.take({"a.json": "1"})
    first.push()
    storage.on("two")
    monkeypatch.setattr(module, "DEAD", 0.5)
    with beating(first), pytest.raises(UserError, match=r"is locked by process \d+ on .* heartbeat"):
        storage.take()
    second, lines = Mirror(storage.url, RUN), list[str]()
    second.take(lines.append)
    assert "Waiting up to" in lines[0]
    put(second.folder, "a.json", "2")
    second.push()
    put(first.folder, "a.json", "late")
    put(second.folder, "b.json", "3")
    second.push()
    assert not first.copy()  # a process that was held up wakes: it must not touch the other's copy
    assert storage.files() == {"a.json": "2", "b.json": "3"}
    with pytest.raises(UserError, match="was taken over by process"):
        first.close()
    second.close()
    assert storage.files() == {"a.json": "2", "b.json": "3"}


def test_a_second_start_on_one_machine_is_refused_and_changes_nothing(storage: Storage) -> None:
    with storage.opened() as folder:
        put(folder / RUN, "a.json", "1")
        with (
            pytest.raises(UserError, match=rf"Run {RUN} is locked by process \d+"),
            storage.opened(),
        ):
            pass
    assert storage.files() == {"a.json": "1"}


def test_a_start_that_cannot_write_leaves_the_folder_the_newer_one(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = storage.take({"a.json": "1"})
    assert first.push()
    put(first.folder, "a.json", "2")  # never copied: the storage is full from here on

    def full(self: DirectoryLeaseStore, name: str, content: bytes) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryLeaseStore, "create", full)
        with pytest.raises(UserError, match="cannot be used"):
            storage.take()
    assert storage.read("a.json") == "2"
    assert storage.files() == {"a.json": "2"}


def test_a_long_copy_gives_signs_of_life(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, begun = Mirror._upload, threading.Event()

    def slow(self: Mirror, name: str, content: bytes | Path) -> None:
        if name == "weights":
            begun.set()
            time.sleep(1.5)
        upload(self, name, content)

    monkeypatch.setattr(Mirror, "_upload", slow)
    monkeypatch.setattr(location, "EVERY", 0.05)
    monkeypatch.setattr(module, "DEAD", 0.7)
    with storage.opened() as folder:
        put(folder / RUN, "weights", "many")
        assert begun.wait(10)
        time.sleep(1.0)
        storage.on("two")
        with pytest.raises(UserError, match="is locked by process"):
            storage.take()
    assert storage.files() == {"weights": "many"}


def test_a_checkpoint_that_is_replaced_while_it_is_copied_is_copied(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = storage.take(
        {"train/checkpoint_1/a": "1", "train/checkpoint_1/b": "2", "train/newest.json": '"checkpoint_1"'}
    )
    upload = copied._upload

    def replaced(name: str, content: bytes | Path) -> None:
        shutil.rmtree(copied.folder / "train" / "checkpoint_1", ignore_errors=True)
        upload(name, content)

    monkeypatch.setattr(copied, "_upload", replaced)
    assert copied.push()
    assert storage.files() == {
        "train/checkpoint_1/a": "1", "train/checkpoint_1/b": "2", "train/newest.json": '"checkpoint_1"'
    }  # fmt: skip


def test_what_cannot_be_copied_is_said_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = storage.take()

    def full(name: str, content: bytes | Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(held, "_upload", full)
    put(held.folder, "a.json", "1")
    assert held.copy()
    assert held.copy()
    assert caplog.text.count("no space left") == 1


def test_a_copy_never_says_more_than_it_holds(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = storage.take({"train/checkpoint_1/weights": "one", "train/newest.json": '"checkpoint_1"'})
    assert mirror.push()
    before = storage.files()
    put(mirror.folder, "train/checkpoint_2/weights", "two")
    put(mirror.folder, "train/newest.json", '"checkpoint_2"')
    upload = mirror._upload

    def gone(name: str, content: bytes) -> None:
        raise FileNotFoundError(name)

    monkeypatch.setattr(mirror, "_upload", gone)  # as when it is replaced by a third at the same time
    assert not mirror.push()
    assert storage.files() == before
    monkeypatch.setattr(mirror, "_upload", upload)
    assert mirror.push()
    assert json.loads(storage.files()["train/newest.json"]) == "checkpoint_2"


def test_reading_brings_a_copy_up_to_date(storage: Storage) -> None:
    storage.write({"a.json": "1", "weights": "many"})
    storage.on("two")
    copy = fetched(f"{storage.url}/{RUN}", lambda name: name.endswith("a.json"))
    assert copy.name == RUN
    assert sorted(p.name for p in copy.iterdir() if p.name[0] != ".") == ["a.json"]
    storage.on("one")
    with storage.opened() as folder:
        (folder / RUN / "a.json").unlink()
        put(folder / RUN, "b/a.json", "22")
    storage.on("two")
    copy = fetched(storage.url, lambda name: name.endswith("a.json"))
    assert (copy / RUN / "b" / "a.json").read_text() == "22"


@pytest.mark.parametrize("bad", ["s4://bucket/runs", "http://", "file://relative"])
def test_a_url_that_cannot_be_opened_is_one_message(bad: str) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        Mirror(bad, RUN)


def test_a_url_without_a_run_is_said(storage: Storage) -> None:
    with pytest.raises(UserError, match="does not contain files of a run"):
        fetched(storage.url)


def test_a_file_at_a_url_is_replaced_when_the_new_one_is_whole(storage: Storage) -> None:
    """Else a heartbeat finds its own holder empty, and takes the storage for none."""
    remote, target = open_url(storage.url), storage.copy.with_name("holder.json")
    upload(remote, "holder.json", b"old")
    seen = []

    class Slow(io.BytesIO):
        def open(self, mode: str) -> Slow:
            return self

        def read(self, size: int | None = -1) -> bytes:
            seen.append(target.read_bytes())
            return super().read(size)

    upload(remote, "holder.json", Slow(b"new"))  # type: ignore[arg-type]
    assert seen == [b"old", b"old"]
    assert target.read_bytes() == b"new"
    assert [p.name for p in target.parent.iterdir()] == ["holder.json"]


def read_figures(storage: Storage) -> Path:
    return fetched(f"{storage.url}/{RUN}", is_figure)


def test_reading_figures_keeps_the_weights_and_the_files_of_the_user(storage: Storage) -> None:
    """`raycomp query` may run while `raycomp export` reads the same copy."""
    storage.write({"job.json": "{}", "weights": "many", "tables/a.parquet": "1"})
    copy = fetched(f"{storage.url}/{RUN}")
    put(copy, "served/onnx/model", "own")
    put(copy, "report.html", "own")

    assert read_figures(storage) == copy
    kept = ("job.json", "weights", "tables/a.parquet", "served/onnx/model", "report.html")
    assert all((copy / name).exists() for name in kept)

    # What the run has removed is removed, also from the files that this reader does not want.
    (storage.copy / "weights").unlink()
    (storage.copy / "tables/a.parquet").unlink()
    time.sleep(0.02)  # more than the resolution of a file's time
    read_figures(storage)
    assert [name for name in kept if (copy / name).exists()] == ["job.json", *kept[3:]]
    put(storage.copy, "weights", "new")
    assert (fetched(f"{storage.url}/{RUN}") / "weights").read_text() == "new"


def test_a_file_that_another_process_has_just_downloaded_stays(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write({"job.json": "{}"})
    list_files = location.listed

    def list_slowly(*args: Any) -> Any:
        files = list_files(*args)
        put(storage.copy, "weights", "new")
        with monkeypatch.context() as patched:
            patched.setattr(location, "listed", list_files)
            fetched(f"{storage.url}/{RUN}")
        return files

    monkeypatch.setattr(location, "listed", list_slowly)
    assert (read_figures(storage) / "weights").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("the cause"), KeyboardInterrupt("the cause")])
def test_an_upload_that_fails_does_not_hide_why_the_run_failed(
    error: BaseException,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(self: Mirror, name: str, content: bytes | Path) -> None:
        raise OSError("no space left")

    def write_and_fail() -> None:
        with storage.opened() as folder:
            put(folder / RUN, "a.json", "1")
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "_upload", fail)
        with pytest.raises(type(error), match="the cause"):
            write_and_fail()
    assert "uploading it to" in caplog.text
    assert "no space left" in caplog.text
    # A run that does not fail ends with the message.
    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "_upload", fail)
        with pytest.raises(UserError, match="no space left"):
            storage.write({"a.json": "2"})


def test_a_copy_reads_only_json_files_that_have_changed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = storage.take({"a.json": "1", "b.json": "1"})
    assert mirror.push()
    put(mirror.folder, "b.json", "22")

    reads: list[str] = []
    read_bytes = Path.read_bytes

    def record(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", record)
    assert mirror.push()
    assert [name for name in reads if name in ("a.json", "b.json")] == ["b.json"]
    assert storage.files() == {"a.json": "1", "b.json": "22"}

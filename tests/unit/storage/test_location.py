"""A run on a URL: mirrored while it is written, taken up on any machine, held by one process."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raycomp.errors import UserError
from raycomp.storage import location as storage
from raycomp.storage import mirror as module
from raycomp.storage.lease_files import DirectoryLeaseStore
from raycomp.storage.location import fetched, is_url, opened
from raycomp.storage.mirror import Mirror
from raycomp.storage.remote import open_url, upload

RUN = "job-12345678"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket/runs"


def machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work as if on another machine: with another folder of its own."""
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / name))


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


def there(tmp_path: Path) -> dict[str, str]:
    root = tmp_path / "bucket" / "runs" / RUN
    found = {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}
    return {name: text for name, text in found.items() if not name.startswith(module.HOLDER)}


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path, RUN) as folder:
        assert folder == tmp_path
    assert fetched(tmp_path) == tmp_path
    assert [is_url(s) for s in ("runs", Path("/runs"), "s3://b/runs")] == [False, False, True]


def test_what_is_written_and_removed_is_so_there(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "tables/steps/a.parquet", "1")
        put(folder / RUN, "done.json", "{}")
        put(folder / RUN, ".lock", "process 7")
        put(folder / RUN, "tables/steps/.b.parquet.tmp", "half")
    assert there(tmp_path) == {"tables/steps/a.parquet": "1", "done.json": "{}"}
    with opened(url, RUN) as folder:
        put(folder / RUN, "tables/steps/a.parquet", "12")
        (folder / RUN / "done.json").unlink()
    assert there(tmp_path) == {"tables/steps/a.parquet": "12"}


def test_another_machine_goes_on_where_the_first_ended(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "a.json", "1")
    machine("two", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        assert (folder / RUN / "a.json").read_text() == "1"
        put(folder / RUN, "a.json", "2")
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:  # its own folder is the older
        assert (folder / RUN / "a.json").read_text() == "2"


def test_a_killed_process_goes_on_from_its_own_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    killed = Mirror(url, RUN)
    killed.take()
    put(killed.folder, "a.json", "1")
    assert killed.push()
    put(killed.folder, "a.json", "2")  # and dies before it is copied
    with opened(url, RUN) as folder:
        assert (folder / RUN / "a.json").read_text() == "2"
    assert there(tmp_path) == {"a.json": "2"}


def record_uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which the name of each uploaded file is added."""
    names: list[str] = []
    upload = Mirror._upload

    def record(self: Mirror, name: str, content: bytes | Path) -> None:
        names.append(name)
        upload(self, name, content)

    monkeypatch.setattr(Mirror, "_upload", record)
    return names


def test_a_restart_uploads_only_what_changed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    first = Mirror(url, RUN)
    first.take()
    for name in ("weights", "tables/a.parquet", "tables/b.parquet", "a.json"):
        put(first.folder, name, "1")
    assert first.push()
    put(first.folder, "tables/b.parquet", "2")  # and the process is killed

    names = record_uploads(monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "tables/c.parquet", "3")
    assert sorted(names) == ["tables/b.parquet", "tables/c.parquet"]

    # A machine that has downloaded the run does not upload it again.
    machine("two", tmp_path, monkeypatch)
    names.clear()
    with opened(url, RUN):
        pass
    with opened(url, RUN):
        pass
    assert names == []
    # A copy that somebody else has replaced or removed is uploaded again.
    (tmp_path / "bucket" / "runs" / RUN / "weights").write_text("other")
    (tmp_path / "bucket" / "runs" / RUN / "a.json").unlink()
    with opened(url, RUN):
        pass
    assert sorted(names) == ["a.json", "weights"]
    assert there(tmp_path)["weights"] == "1"


def test_a_download_that_was_interrupted_is_not_taken_for_the_run(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "a.json", "1")
        put(folder / RUN, "weights", "many")
    machine("two", tmp_path, monkeypatch)

    def fail(remote: object, name: str, target: Path) -> None:
        if name == "weights":
            raise UserError("weights cannot be read from the storage")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("1")

    with monkeypatch.context() as patched:
        patched.setattr(module, "download", fail)
        with pytest.raises(UserError, match="cannot be read"):
            Mirror(url, RUN).take()
    with opened(url, RUN) as folder:
        assert (folder / RUN / "weights").read_text() == "many"
    assert there(tmp_path) == {"a.json": "1", "weights": "many"}


def test_an_owner_that_wakes_late_asks_before_it_writes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended inside of a copy, for longer than others wait for its heartbeat."""
    machine("one", tmp_path, monkeypatch)
    monkeypatch.setattr(module, "DEAD", 0.4)
    first = Mirror(url, RUN)
    first.take()
    for name in ("a", "b", "c"):
        put(first.folder, name, "1")
    second: list[Mirror] = []
    upload = first._upload

    def suspended(name: str, content: bytes | Path) -> None:
        upload(name, content)
        if name == "a":
            machine("two", tmp_path, monkeypatch)
            second.append(Mirror(url, RUN))
            second[0].take()

    monkeypatch.setattr(first, "_upload", suspended)
    assert not first.push()
    assert there(tmp_path) == {"a": "1"}
    with pytest.raises(UserError, match="was taken over by process"):
        first.close()


def test_a_run_of_an_earlier_version_is_continued(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had one file for its owner."""
    root = tmp_path / "bucket" / "runs" / RUN
    put(root, "a.json", "1")
    owner = {"attempt": "x", "holder": "process 7 on b", "beat": time.time(), "ended": True}
    put(root, "holder.json", json.dumps(owner))
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        assert (folder / RUN / "a.json").read_text() == "1"
        assert not list((folder / RUN).glob("holder*"))
    assert there(tmp_path) == {"a.json": "1"}


def test_one_process_holds_a_run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("one", tmp_path, monkeypatch)
    first = Mirror(url, RUN)
    first.take()
    put(first.folder, "a.json", "1")
    first.push()
    machine("two", tmp_path, monkeypatch)
    monkeypatch.setattr(module, "DEAD", 0.5)
    with beating(first), pytest.raises(UserError, match=r"is locked by process \d+ on .* heartbeat"):
        Mirror(url, RUN).take()
    second, lines = Mirror(url, RUN), list[str]()
    second.take(lines.append)
    assert "Waiting up to" in lines[0]
    put(second.folder, "a.json", "2")
    second.push()
    put(first.folder, "a.json", "late")
    put(second.folder, "b.json", "3")
    second.push()
    assert not first.copy()  # a process that was held up wakes: it must not touch the other's copy
    assert there(tmp_path) == {"a.json": "2", "b.json": "3"}
    with pytest.raises(UserError, match="was taken over by process"):
        first.close()
    second.close()
    assert there(tmp_path) == {"a.json": "2", "b.json": "3"}


def test_a_second_start_on_one_machine_is_refused_and_changes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "a.json", "1")
        with (
            pytest.raises(UserError, match=rf"Run {RUN} is locked by process \d+"),
            opened(url, RUN),
        ):
            pass
    assert there(tmp_path) == {"a.json": "1"}


def test_a_start_that_cannot_write_leaves_the_folder_the_newer_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    first = Mirror(url, RUN)
    first.take()
    put(first.folder, "a.json", "1")
    assert first.push()
    put(first.folder, "a.json", "2")  # never copied: the storage is full from here on

    def full(self: DirectoryLeaseStore, name: str, content: bytes) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryLeaseStore, "create", full)
        with pytest.raises(UserError, match="cannot be used"):
            Mirror(url, RUN).take()
    with opened(url, RUN) as folder:
        assert (folder / RUN / "a.json").read_text() == "2"
    assert there(tmp_path) == {"a.json": "2"}


def test_a_long_copy_gives_signs_of_life(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, begun = Mirror._upload, threading.Event()

    def slow(self: Mirror, name: str, content: bytes | Path) -> None:
        if name == "weights":
            begun.set()
            time.sleep(1.5)
        upload(self, name, content)

    monkeypatch.setattr(Mirror, "_upload", slow)
    monkeypatch.setattr(storage, "EVERY", 0.05)
    monkeypatch.setattr(module, "DEAD", 0.7)
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "weights", "many")
        assert begun.wait(10)
        time.sleep(1.0)
        machine("two", tmp_path, monkeypatch)
        with pytest.raises(UserError, match="is locked by process"):
            Mirror(url, RUN).take()
    assert there(tmp_path) == {"weights": "many"}


def test_a_checkpoint_that_is_replaced_while_it_is_copied_is_copied(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    copied = Mirror(url, RUN)
    copied.take()
    put(copied.folder, "train/checkpoint_1/a", "1")
    put(copied.folder, "train/checkpoint_1/b", "2")
    put(copied.folder, "train/newest.json", '"checkpoint_1"')
    upload = copied._upload

    def replaced(name: str, content: bytes | Path) -> None:
        shutil.rmtree(copied.folder / "train" / "checkpoint_1", ignore_errors=True)
        upload(name, content)

    monkeypatch.setattr(copied, "_upload", replaced)
    assert copied.push()
    assert there(tmp_path) == {
        "train/checkpoint_1/a": "1", "train/checkpoint_1/b": "2", "train/newest.json": '"checkpoint_1"'
    }  # fmt: skip


def test_what_cannot_be_copied_is_said_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine("one", tmp_path, monkeypatch)
    held = Mirror(url, RUN)
    held.take()

    def full(name: str, content: bytes | Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(held, "_upload", full)
    put(held.folder, "a.json", "1")
    assert held.copy()
    assert held.copy()
    assert caplog.text.count("no space left") == 1


def test_a_copy_never_says_more_than_it_holds(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    mirror = Mirror(url, RUN)
    mirror.take()
    put(mirror.folder, "train/checkpoint_1/weights", "one")
    put(mirror.folder, "train/newest.json", '"checkpoint_1"')
    assert mirror.push()
    before = there(tmp_path)
    put(mirror.folder, "train/checkpoint_2/weights", "two")
    put(mirror.folder, "train/newest.json", '"checkpoint_2"')
    upload = mirror._upload

    def gone(name: str, content: bytes) -> None:
        raise FileNotFoundError(name)

    monkeypatch.setattr(mirror, "_upload", gone)  # as when it is replaced by a third at the same time
    assert not mirror.push()
    assert there(tmp_path) == before
    monkeypatch.setattr(mirror, "_upload", upload)
    assert mirror.push()
    assert json.loads(there(tmp_path)["train/newest.json"]) == "checkpoint_2"


def test_reading_brings_a_copy_up_to_date(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        put(folder / RUN, "a.json", "1")
        put(folder / RUN, "weights", "many")
    machine("two", tmp_path, monkeypatch)
    copy = fetched(f"{url}/{RUN}", lambda name: name.endswith("a.json"))
    assert copy.name == RUN
    assert sorted(p.name for p in copy.iterdir() if p.name[0] != ".") == ["a.json"]
    machine("one", tmp_path, monkeypatch)
    with opened(url, RUN) as folder:
        (folder / RUN / "a.json").unlink()
        put(folder / RUN, "b/a.json", "22")
    machine("two", tmp_path, monkeypatch)
    copy = fetched(url, lambda name: name.endswith("a.json"))
    assert (copy / RUN / "b" / "a.json").read_text() == "22"


@pytest.mark.parametrize("bad", ["s4://bucket/runs", "http://", "file://relative"])
def test_a_url_that_cannot_be_opened_is_one_message(bad: str) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        Mirror(bad, RUN)


def test_a_url_without_a_run_is_said(url: str) -> None:
    with pytest.raises(UserError, match="does not contain files of a run"):
        fetched(url)


def test_a_file_at_a_url_is_replaced_when_the_new_one_is_whole(url: str, tmp_path: Path) -> None:
    """Else a heartbeat finds its own holder empty, and takes the storage for none."""
    remote, target = open_url(url), tmp_path / "bucket" / "runs" / "holder.json"
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

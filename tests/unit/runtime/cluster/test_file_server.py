"""The file server of a run, and the file system over it."""

from __future__ import annotations

import gc
import io
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raycomp.errors import UserError
from raycomp.runtime.cluster import actor_filesystem, file_server
from raycomp.runtime.cluster.actor_filesystem import ActorFileSystem
from raycomp.runtime.cluster.file_server import RunFileServer
from tests.unit.runtime.cluster.conftest import FakeActor, file_names


def test_a_repeated_call_changes_nothing(actor: FakeActor, run_dir: Path) -> None:
    for _ in range(2):
        actor.server.write_block("demo-0/weights", "t", 0, b"abc", False)
    for _ in range(2):
        actor.server.write_block("demo-0/weights", "t", 3, b"def", True)

    assert (run_dir / "weights").read_bytes() == b"abcdef"
    assert not list(run_dir.glob(".weights*"))


@pytest.mark.parametrize(
    "path", ["demo-0/../other-1/job.json", "other-1/job.json", "/etc/passwd", "", "..", "demo-0/../../x"]
)
def test_files_outside_of_the_run_can_be_neither_read_nor_written(actor: FakeActor, path: str) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("read_block", (path, 0, 9)),
        ("write_block", (path, "t", 0, b"", True)),
        ("describe_files", ([path],)),
        ("list_files", (path, True, True)),
        ("change_files", ("delete_file", path)),
        ("change_files", ("move", "demo-0/facts.json", path)),
    ]
    for method, args in calls:
        with pytest.raises(PermissionError):
            getattr(actor.server, method)(*args)


def test_a_link_that_leads_out_of_the_run_is_not_followed(
    actor: FakeActor, run_dir: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("canary")
    (run_dir / "file").symlink_to(secret / "key")
    (run_dir / "folder").symlink_to(secret)
    (run_dir / "inner").symlink_to(run_dir / "facts.json")

    for path in ("demo-0/file", "demo-0/folder/key"):
        for method, args in (
            ("read_block", (path, 0, 9)),
            ("write_block", (path, "t", 0, b"x", True)),
            ("describe_files", ([path],)),
        ):
            with pytest.raises(PermissionError, match="leads out"):
                getattr(actor.server, method)(*args)
    assert (secret / "key").read_text() == "canary"
    listed = [entry.path for entry in actor.server.list_files("demo-0", True, False)]
    assert not [path for path in listed if "file" in path or "folder" in path]
    # A link to a file of the run is a file of the run.
    assert actor.server.read_block("demo-0/inner", 0, 99) == (run_dir / "facts.json").read_bytes()


def test_only_listed_methods_change_files(actor: FakeActor) -> None:
    with pytest.raises(ValueError, match="not an allowed change"):
        actor.server.change_files("open_input_stream", "demo-0/facts.json")


def test_a_failed_write_leaves_no_file(
    actor: FakeActor, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_server.os, "fsync", fail)
    with pytest.raises(UserError, match="No space left on device"):
        actor.server.write_block("demo-0/late", "t", 0, b"abc", True)
    assert not [path for path in run_dir.iterdir() if "late" in path.name]


def test_a_failed_read_of_the_local_file_leaves_the_file_in_the_run_directory(
    actor: FakeActor, run_dir: Path
) -> None:
    class BrokenFile(io.BytesIO):
        def open(self, mode: str) -> BrokenFile:
            return self

        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("read error")
            return super().read(3)

    broken: Any = BrokenFile(b"abcdef")
    with pytest.raises(OSError, match="read error"):
        actor_filesystem.send_file(actor, "demo-0/facts.json", broken)

    # The writer is closed at the latest when it is collected.
    gc.collect()
    assert (run_dir / "facts.json").read_text() == "{facts.json}"


def test_runs_of_one_name_in_two_storages_have_different_replicas(
    actor: FakeActor, run_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "demo-0"
    other.mkdir(parents=True)
    name = actor.server.describe().replica_name

    assert RunFileServer(str(other)).describe().replica_name != name
    assert RunFileServer(str(run_dir)).describe().replica_name == name


def test_the_file_system_does_what_ray_train_needs(
    actor: FakeActor, run_dir: Path, tmp_path: Path
) -> None:
    """Ray Train creates and lists directories, copies them in both directions, and deletes them."""
    path, remote = actor_filesystem.train_storage(run_dir, "train")
    assert path == "demo-0/train"
    assert remote == fs.PyFileSystem(ActorFileSystem("demo-0"))

    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"w" * 1000)
    remote.create_dir(f"{path}/new/checkpoint_1")
    fs.copy_files(
        str(source),
        f"{path}/new/checkpoint_1",
        source_filesystem=fs.LocalFileSystem(),
        destination_filesystem=remote,
    )
    assert (run_dir / "train/new/checkpoint_1/model.safetensors").read_bytes() == b"w" * 1000

    target = tmp_path / "restored"
    target.mkdir()
    fs.copy_files(
        f"{path}/new/checkpoint_1",
        str(target),
        source_filesystem=remote,
        destination_filesystem=fs.LocalFileSystem(),
    )
    assert (target / "model.safetensors").read_bytes() == b"w" * 1000

    with remote.open_output_stream(f"{path}/new/state.json") as file:
        file.write(b"{}")
    with remote.open_input_file(f"{path}/new/state.json") as file:
        assert file.read() == b"{}"

    remote.delete_dir(f"{path}/new/checkpoint_1")
    remote.move(f"{path}/new/state.json", f"{path}/new/moved.json")
    assert file_names(run_dir / "train" / "new") == {"moved.json"}
    assert remote.get_file_info(f"{path}/new/state.json").type == fs.FileType.NotFound

    with pytest.raises(FileNotFoundError):
        remote.open_input_stream(f"{path}/new/state.json")
    with pytest.raises(PermissionError):
        remote.delete_dir_contents("", accept_root_dir=True)

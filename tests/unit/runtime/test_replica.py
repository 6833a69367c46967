"""What passes between a run's folder and a node that does not see it, without Ray's processes."""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs
from ray.exceptions import RayActorError

from raycomp.errors import AttemptReplacedError, UserError
from raycomp.runtime.cluster import actor_filesystem, file_server, replica
from raycomp.runtime.cluster.actor_filesystem import BLOCK_BYTES, ActorFileSystem
from raycomp.runtime.cluster.file_server import RunFileServer
from raycomp.runtime.cluster.replica import open_run_dir, synced_run_dir
from raycomp.storage.files import write_json

NODE = SimpleNamespace(get_node_id=lambda: "a" * 32)


class Near:
    """Calls of an actor, made in this process; the answers are what `ray.get` gets."""

    def __init__(self, actor: RunFileServer) -> None:
        self.actor, self.calls = actor, []

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> Any:
            self.calls.append((name, args))
            return getattr(self.actor, name)(*args)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "storage" / "demo-0"
    for name in ("teacher/network.safetensors", "facts.json", "train/x/checkpoint/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{{{name}}}")
    (folder / ".lock").write_text("held")
    (folder.parent / "other-1").mkdir()
    (folder.parent / "other-1" / "job.json").write_text("another's")
    return folder


@pytest.fixture
def near(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Near:
    """A home whose visitors are on another node."""
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "work"))
    on_driver_node = SimpleNamespace(get_runtime_context=lambda: NODE)
    actor = Near(RunFileServer(str(run_dir)))
    away = SimpleNamespace(
        get=lambda answer: answer,
        is_initialized=lambda: True,
        exceptions=SimpleNamespace(RayActorError=RayActorError),
        get_actor=lambda name: actor,
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "b" * 32),
    )
    monkeypatch.setattr(replica, "ray", away)
    monkeypatch.setattr(replica, "_opened_run_dirs", {})
    monkeypatch.setattr(replica, "read_marker", lambda path: "")  # it does not see the folder
    for module in (file_server, actor_filesystem):
        monkeypatch.setattr(module, "ray", SimpleNamespace(**{**vars(away), **vars(on_driver_node)}))
    return actor


def names(folder: Path) -> set[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(p) for p in found}


def test_a_visitor_has_the_runs_files_and_sends_what_it_writes(near: Near, run_dir: Path) -> None:
    guest = open_run_dir(run_dir)
    assert guest.folder != run_dir
    assert guest.folder.name == run_dir.name
    assert names(guest.folder) == {"teacher/network.safetensors", "facts.json"}
    write_json(guest.folder / "supernet" / "sampler.json", {"step": 3})
    guest.push()
    assert (run_dir / "supernet" / "sampler.json").read_text() == '{\n "step": 3\n}\n'
    guest.remove(guest.folder / "facts.json")
    assert not (run_dir / "facts.json").exists()
    assert (run_dir / "teacher" / "network.safetensors").exists()
    near.calls.clear()
    guest.push()
    guest.pull()
    assert [name for name, _ in near.calls] == ["list_files"], (
        "what is known on both sides is sent no more"
    )


def test_a_node_that_sees_the_folder_uses_it(
    near: Near, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one that lies at the same path, left by another start."""
    monkeypatch.setattr(replica, "read_marker", file_server.read_marker)
    assert open_run_dir(run_dir).folder == run_dir
    (run_dir / file_server.MARKER_FILE).write_text("of another start")
    assert open_run_dir(run_dir).folder != run_dir


def test_what_cannot_be_read_here_leaves_the_file_at_home_as_it_is(near: Near, run_dir: Path) -> None:
    class Broken(io.BytesIO):
        def open(self, mode: str) -> Broken:
            return self

        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("read error")
            return super().read(3)

    with pytest.raises(OSError, match="read error"):
        actor_filesystem.send_file(near, "demo-0/facts.json", Broken(b"abcdef"))  # type: ignore[arg-type]
    gc.collect()
    assert (run_dir / "facts.json").read_text() == "{facts.json}"


def test_what_changed_at_home_is_brought_and_what_a_neighbour_brought_is_not_sent(
    near: Near, run_dir: Path
) -> None:
    one, two = open_run_dir(run_dir), open_run_dir(run_dir)
    assert sum(name == "read_block" for name, _ in near.calls) == 2, "two files, once for the node"
    assert one.folder != two.folder
    write_json(run_dir / "facts.json", {"new": True})
    two.pull()
    near.calls.clear()
    one.push()
    two.push()
    assert not near.calls, "an older copy must not come back over a newer file"
    assert "new" in (two.folder / "facts.json").read_text()


def test_what_a_visitor_writes_does_not_reach_its_neighbour_on_the_node(
    near: Near, run_dir: Path
) -> None:
    one, two = open_run_dir(run_dir), open_run_dir(run_dir)
    write_json(one.folder / "facts.json", {"mine": 1})
    assert "mine" not in (two.folder / "facts.json").read_text()
    assert "mine" not in (run_dir / "facts.json").read_text()


def test_files_larger_than_a_call_pass_whole(near: Near, run_dir: Path) -> None:
    content = os.urandom(2 * BLOCK_BYTES + 17)
    (run_dir / "teacher" / "network.safetensors").write_bytes(content)
    guest = open_run_dir(run_dir)
    assert (guest.folder / "teacher" / "network.safetensors").read_bytes() == content
    (guest.folder / "back").write_bytes(content[::-1])
    guest.push()
    assert (run_dir / "back").read_bytes() == content[::-1]
    assert not list(run_dir.glob(".back*"))


def test_a_call_that_comes_twice_changes_nothing(near: Near, run_dir: Path) -> None:
    actor, name = near.actor, "demo-0/weights"
    for _ in range(2):
        actor.write_block(name, "t", 0, b"abc", False)
    for _ in range(2):
        actor.write_block(name, "t", 3, b"def", True)
    assert (run_dir / "weights").read_bytes() == b"abcdef"
    assert not list(run_dir.glob(".weights*"))


def test_an_attempt_that_was_replaced_writes_no_more(near: Near, run_dir: Path) -> None:
    old, new = open_run_dir(run_dir), open_run_dir(run_dir)
    old.start_attempt("supernet", "1")
    new.start_attempt("supernet", "2")
    for guest, said in ((old, "old"), (new, "new")):
        write_json(guest.folder / "said.json", {"by": said})
    write_json(run_dir / "late.json", {})  # sent by the old one before the new one entered
    new.start_attempt("supernet", "2")
    assert (new.folder / "late.json").exists()
    with pytest.raises(AttemptReplacedError):
        old.push()
    assert not (run_dir / "said.json").exists()
    new.push()
    assert "new" in (run_dir / "said.json").read_text()
    other = open_run_dir(run_dir)
    other.start_attempt("teacher", "1")  # another training of the run
    new.push()


@pytest.mark.parametrize(
    "path", ["demo-0/../other-1/job.json", "other-1/job.json", "/etc/passwd", "", "..", "demo-0/../../x"]
)
def test_nothing_beside_the_run_is_given_or_taken(near: Near, path: str) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("read_block", (path, 0, 9)), ("write_block", (path, "t", 0, b"", True)),
        ("describe_files", ([path],)),
        ("list_files", (path, True, True)), ("change_files", ("delete_file", path)),
        ("change_files", ("move", "demo-0/facts.json", path)),
    ]  # fmt: skip
    for what, args in calls:
        with pytest.raises(PermissionError):
            getattr(near.actor, what)(*args)
    with pytest.raises(ValueError, match="not an allowed change"):
        near.actor.change_files("open_input_stream", "demo-0/facts.json")


@pytest.mark.parametrize("size", [3, BLOCK_BYTES + 5])
def test_a_disk_that_is_full_at_home_is_one_message_and_changes_no_file(
    near: Near, run_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It is full once: what comes after must not pass for the file."""
    guest = open_run_dir(run_dir)
    (guest.folder / "late").write_bytes(b"x" * size)
    (guest.folder / "teacher" / "network.safetensors").unlink()
    (guest.folder / "teacher" / "network.safetensors").write_bytes(b"y" * size)
    write, left = near.actor.write_block, [1]

    def once(path: str, token: str, first: int, block: bytes, last: bool) -> None:
        if last and left and left.pop():
            raise file_server.write_error(run_dir / path, OSError(28, "No space left on device"))
        write(path, token, first, block, last)

    monkeypatch.setattr(near.actor, "write_block", once)
    with pytest.raises(UserError, match=r"No space left on device.*free space"):
        guest.push()
    gc.collect()
    assert not (run_dir / "late").exists()
    assert (run_dir / "teacher" / "network.safetensors").read_text() == "{teacher/network.safetensors}"
    guest.push()
    assert (run_dir / "late").stat().st_size == size


def test_what_cannot_be_written_at_home_leaves_nothing_there(
    near: Near, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_server.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        near.actor.write_block("demo-0/late", "t", 0, b"abc", True)
    assert not [p for p in run_dir.iterdir() if "late" in p.name]


def test_a_copy_that_is_lost_takes_nothing_at_home_along(near: Near, run_dir: Path) -> None:
    guest = open_run_dir(run_dir)
    before = names(run_dir)
    shutil.rmtree(guest.folder.parents[1])
    write_json(guest.folder / "progress" / "x.json", {})
    guest.push()
    assert names(run_dir) == before | {"progress/x.json"}


def test_runs_of_one_name_in_two_storages_have_copies_of_their_own(
    near: Near, run_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "demo-0"
    other.mkdir(parents=True)
    assert near.actor.describe()[:2] != RunFileServer(str(other)).describe()[:2]
    assert near.actor.describe()[:2] == RunFileServer(str(run_dir)).describe()[:2]


def test_what_is_large_comes_to_who_asks_for_it(near: Near, run_dir: Path) -> None:
    block = run_dir / "adabert" / "features" / "00000.safetensors"
    block.parent.mkdir(parents=True)
    block.write_text("large")
    with synced_run_dir(str(run_dir)) as folder:
        assert not (folder / "adabert").exists()
    with synced_run_dir(str(run_dir), "adabert/features") as folder:
        assert (folder / "adabert" / "features" / "00000.safetensors").read_text() == "large"


def test_a_process_that_outlives_a_start_of_the_run_visits_the_next_one(
    near: Near, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with synced_run_dir(str(run_dir)) as first:
        pass
    below, left = near.actor.list_files, [1]

    def gone(*args: Any) -> Any:
        if left and left.pop():
            raise RayActorError
        return below(*args)

    monkeypatch.setattr(near.actor, "list_files", gone)
    with synced_run_dir(str(run_dir)) as second:
        assert second != first
        assert (second / "facts.json").exists()


def test_tokens_come_with_the_keys_that_name_them(near: Near, run_dir: Path) -> None:
    cache = run_dir.parent / ".cache" / "tokens"
    cache.mkdir(parents=True)
    for key in ("a" * 32, "b" * 32):
        (cache / f"{key}.arrow").write_text(key)
    write_json(run_dir / "tokens" / "train.json", {"key": "a" * 32, "rows": 1})
    guest = open_run_dir(run_dir)
    kept = guest.folder.parent / ".cache" / "tokens"
    assert [p.name for p in kept.iterdir()] == [f"{'a' * 32}.arrow"]
    guest.push()
    assert len(list(cache.iterdir())) == 2


def test_a_task_sends_what_it_wrote_and_finds_what_is_new(near: Near, run_dir: Path) -> None:
    with synced_run_dir(str(run_dir)) as folder:
        write_json(folder / "one.json", {})
    assert (run_dir / "one.json").exists()
    write_json(run_dir / "two.json", {})
    with synced_run_dir(str(run_dir)) as again:
        assert again == folder
        assert (again / "two.json").exists()


def test_a_task_that_fails_sends_nothing(near: Near, run_dir: Path) -> None:
    def fail() -> None:
        with synced_run_dir(str(run_dir)) as folder:
            write_json(folder / "half.json", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (run_dir / "half.json").exists()


def test_copies_of_processes_that_are_gone_are_removed(near: Near, run_dir: Path) -> None:
    guest = open_run_dir(run_dir)
    here = guest.folder.parents[1]
    code = (
        "import sys; from pathlib import Path; from raycomp.runtime.cluster.replica import "
        "_make_process_folder;"
        "print(_make_process_folder(Path(sys.argv[1])))"
    )
    gone = subprocess.run(
        [sys.executable, "-c", code, str(here)], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert Path(gone).is_dir()
    assert guest.folder.is_dir(), "its process lives"
    open_run_dir(run_dir)
    assert not Path(gone).exists()
    assert guest.folder.is_dir()


def test_a_node_that_joined_and_sees_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr(
        actor_filesystem, "ray", SimpleNamespace(get_actor=none, is_initialized=lambda: True)
    )
    assert open_run_dir(tmp_path).folder == tmp_path
    with pytest.raises(
        UserError, match=f"Node {os.uname().nodename} joined the cluster but cannot access"
    ):
        open_run_dir(tmp_path / "nowhere")


def test_ray_train_finds_a_file_system_that_pyarrow_copies_with(
    near: Near, run_dir: Path, tmp_path: Path
) -> None:
    """What Ray Train does with its storage: make folders, look, copy there and back, remove."""
    path, remote = actor_filesystem.train_storage(run_dir, "train")
    assert path == "demo-0/train"
    assert remote == fs.PyFileSystem(ActorFileSystem("demo-0"))
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"w" * 1000)
    remote.create_dir(f"{path}/new/checkpoint_1")
    fs.copy_files(
        str(source), f"{path}/new/checkpoint_1", source_filesystem=fs.LocalFileSystem(),
        destination_filesystem=remote,
    )  # fmt: skip
    assert (run_dir / "train/new/checkpoint_1/model.safetensors").read_bytes() == b"w" * 1000
    (tmp_path / "back").mkdir()
    fs.copy_files(
        f"{path}/new/checkpoint_1", str(tmp_path / "back"), source_filesystem=remote,
        destination_filesystem=fs.LocalFileSystem(),
    )  # fmt: skip
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == b"w" * 1000
    with remote.open_output_stream(f"{path}/new/state.json") as file:
        file.write(b"{}")
    with remote.open_input_file(f"{path}/new/state.json") as file:
        assert file.read() == b"{}"
    remote.delete_dir(f"{path}/new/checkpoint_1")
    remote.move(f"{path}/new/state.json", f"{path}/new/moved.json")
    assert names(run_dir / "train" / "new") == {"moved.json"}
    assert remote.get_file_info(f"{path}/new/state.json").type == fs.FileType.NotFound
    with pytest.raises(FileNotFoundError):
        remote.open_input_stream(f"{path}/new/state.json")
    with pytest.raises(PermissionError):
        remote.delete_dir_contents("", accept_root_dir=True)

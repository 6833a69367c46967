"""Replicas of a run directory on a node that does not see it."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from raycomp.errors import AttemptReplacedError, UserError
from raycomp.runtime.cluster import actor_filesystem, file_server, replica
from raycomp.runtime.cluster.actor_filesystem import BLOCK_BYTES
from raycomp.runtime.cluster.replica import open_run_dir, synced_run_dir
from raycomp.storage.files import write_json
from tests.unit.runtime.cluster.conftest import FakeActor, file_names


def test_a_replica_has_the_files_of_the_run_and_sends_what_is_written(
    actor: FakeActor, run_dir: Path
) -> None:
    copy = open_run_dir(run_dir)
    assert copy.folder != run_dir
    assert copy.folder.name == run_dir.name
    assert file_names(copy.folder) == {"teacher/network.safetensors", "facts.json"}

    write_json(copy.folder / "supernet" / "sampler.json", {"step": 3})
    copy.push()
    assert (run_dir / "supernet" / "sampler.json").read_text() == '{\n "step": 3\n}\n'

    copy.remove(copy.folder / "facts.json")
    assert not (run_dir / "facts.json").exists()
    assert (run_dir / "teacher" / "network.safetensors").exists()

    # Files that are the same on both sides are not sent again.
    actor.calls.clear()
    copy.push()
    copy.pull()
    assert [method for method, _ in actor.calls] == ["list_files"]


def test_a_node_that_sees_the_run_directory_uses_it(
    actor: FakeActor, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "read_marker", file_server.read_marker)
    assert open_run_dir(run_dir).folder == run_dir

    # A directory at the same path that belongs to another start of the run is not used.
    (run_dir / file_server.MARKER_FILE).write_text("nonce of another start")
    assert open_run_dir(run_dir).folder != run_dir


def test_pull_copies_changes_and_push_does_not_send_them_back(actor: FakeActor, run_dir: Path) -> None:
    first = open_run_dir(run_dir)
    second = open_run_dir(run_dir)
    assert first.folder != second.folder
    # Two files, each copied once for the whole node.
    assert actor.count_calls("read_block") == 2

    write_json(run_dir / "facts.json", {"new": True})
    second.pull()
    assert "new" in (second.folder / "facts.json").read_text()

    # The older copy of the first replica must not overwrite the newer file.
    actor.calls.clear()
    first.push()
    second.push()
    assert not actor.calls


def test_a_replica_does_not_see_unsent_files_of_another_one_on_its_node(
    actor: FakeActor, run_dir: Path
) -> None:
    first = open_run_dir(run_dir)
    second = open_run_dir(run_dir)
    write_json(first.folder / "facts.json", {"changed": 1})

    assert "changed" not in (second.folder / "facts.json").read_text()
    assert "changed" not in (run_dir / "facts.json").read_text()


def test_files_larger_than_a_block_are_copied_completely(actor: FakeActor, run_dir: Path) -> None:
    content = os.urandom(2 * BLOCK_BYTES + 17)
    (run_dir / "teacher" / "network.safetensors").write_bytes(content)
    copy = open_run_dir(run_dir)
    assert (copy.folder / "teacher" / "network.safetensors").read_bytes() == content

    (copy.folder / "reply").write_bytes(content[::-1])
    copy.push()
    assert (run_dir / "reply").read_bytes() == content[::-1]
    assert not list(run_dir.glob(".reply*"))


def test_a_replaced_attempt_can_no_longer_write(actor: FakeActor, run_dir: Path) -> None:
    old = open_run_dir(run_dir)
    new = open_run_dir(run_dir)
    old.start_attempt("supernet")
    # The old attempt has written this before the new one started.
    write_json(run_dir / "earlier.json", {})
    new.start_attempt("supernet")
    assert (new.folder / "earlier.json").exists()
    write_json(old.folder / "result.json", {"by": "old"})
    write_json(new.folder / "result.json", {"by": "new"})

    # The server that has started again remembers the attempt.
    for _ in range(2):
        with pytest.raises(AttemptReplacedError, match="was replaced by attempt a2x"):
            old.push()
        with pytest.raises(AttemptReplacedError, match="was replaced by attempt a2x"):
            old.remove(old.folder / "facts.json")
        assert (run_dir / "facts.json").exists()
        assert not (run_dir / "result.json").exists()
        actor.server = file_server.RunFileServer(str(run_dir))
    new.push()
    assert "new" in (run_dir / "result.json").read_text()

    # An attempt at another training of the run replaces nothing.
    other = open_run_dir(run_dir)
    other.start_attempt("teacher")
    new.push()


def test_an_attempt_that_is_replaced_while_it_sends_a_file_does_not_complete_it(
    actor: FakeActor, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = open_run_dir(run_dir)
    old.start_attempt("supernet")
    (old.folder / "large").write_bytes(b"x" * (BLOCK_BYTES + 1))
    write_block = actor.server.write_block

    def write_and_replace(*args: Any) -> None:
        write_block(*args)
        actor.server.start_attempt("supernet")

    monkeypatch.setattr(actor.server, "write_block", write_and_replace)
    with pytest.raises(AttemptReplacedError):
        old.push()
    gc.collect()
    assert not (run_dir / "large").exists()


@pytest.mark.parametrize("size", [3, BLOCK_BYTES + 5])
def test_a_full_disk_is_one_message_and_changes_no_file(
    actor: FakeActor, run_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The disk is full for one call only. The blocks that follow must not pass for the file."""
    copy = open_run_dir(run_dir)
    network = copy.folder / "teacher" / "network.safetensors"
    (copy.folder / "late").write_bytes(b"x" * size)
    network.unlink()
    network.write_bytes(b"y" * size)

    write_block = actor.server.write_block
    failures = [OSError(28, "No space left on device")]

    def fail_once(path: str, token: str, start: int, block: bytes, is_last: bool, fence: Any) -> None:
        if is_last and failures:
            raise file_server.write_error(run_dir / path, failures.pop())
        write_block(path, token, start, block, is_last, fence)

    monkeypatch.setattr(actor.server, "write_block", fail_once)
    with pytest.raises(UserError, match=r"No space left on device.*ree space"):
        copy.push()
    # The writer is closed when it is collected, and must not complete the file then.
    gc.collect()
    assert not (run_dir / "late").exists()
    assert (run_dir / "teacher" / "network.safetensors").read_text() == "{teacher/network.safetensors}"

    copy.push()
    assert (run_dir / "late").stat().st_size == size


def test_a_lost_replica_removes_nothing_from_the_run_directory(actor: FakeActor, run_dir: Path) -> None:
    copy = open_run_dir(run_dir)
    before = file_names(run_dir)
    shutil.rmtree(copy.folder.parents[1])

    write_json(copy.folder / "progress" / "x.json", {})
    copy.push()
    assert file_names(run_dir) == before | {"progress/x.json"}


def test_large_directories_are_copied_on_request(actor: FakeActor, run_dir: Path) -> None:
    block = run_dir / "adabert" / "features" / "00000.safetensors"
    block.parent.mkdir(parents=True)
    block.write_text("large")

    with synced_run_dir(str(run_dir)) as folder:
        assert not (folder / "adabert").exists()
    with synced_run_dir(str(run_dir), "adabert/features") as folder:
        assert (folder / "adabert" / "features" / "00000.safetensors").read_text() == "large"


def test_a_process_that_outlives_its_file_server_opens_a_new_replica(
    actor: FakeActor, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with synced_run_dir(str(run_dir)) as first:
        pass
    list_files = actor.server.list_files
    failures = [RayActorError()]

    def fail_once(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return list_files(*args)

    monkeypatch.setattr(actor.server, "list_files", fail_once)
    with synced_run_dir(str(run_dir)) as second:
        assert second != first
        assert (second / "facts.json").exists()


def test_only_the_tokens_of_the_run_are_copied(actor: FakeActor, run_dir: Path) -> None:
    cache = run_dir.parent / ".cache" / "tokens"
    cache.mkdir(parents=True)
    for key in ("a" * 32, "b" * 32):
        (cache / f"{key}.arrow").write_text(key)
    write_json(run_dir / "tokens" / "train.json", {"key": "a" * 32, "rows": 1})

    copy = open_run_dir(run_dir)
    copied = copy.folder.parent / ".cache" / "tokens"
    assert [path.name for path in copied.iterdir()] == [f"{'a' * 32}.arrow"]
    copy.push()
    assert len(list(cache.iterdir())) == 2


def test_a_task_sends_its_files_and_gets_new_ones(actor: FakeActor, run_dir: Path) -> None:
    with synced_run_dir(str(run_dir)) as first:
        write_json(first / "one.json", {})
    assert (run_dir / "one.json").exists()

    write_json(run_dir / "two.json", {})
    with synced_run_dir(str(run_dir)) as second:
        assert second == first
        assert (second / "two.json").exists()


def test_a_task_that_fails_sends_nothing(actor: FakeActor, run_dir: Path) -> None:
    def fail() -> None:
        with synced_run_dir(str(run_dir)) as folder:
            write_json(folder / "half.json", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (run_dir / "half.json").exists()


def test_replicas_of_ended_processes_are_removed(actor: FakeActor, run_dir: Path) -> None:
    copy = open_run_dir(run_dir)
    root = copy.folder.parents[1]
    code = (
        "import sys; from pathlib import Path; "
        "from raycomp.runtime.cluster.replica import _make_process_folder; "
        "print(_make_process_folder(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    other = Path(output.split()[-1])
    assert other.is_dir()
    assert copy.folder.is_dir(), "this process still runs"

    open_run_dir(run_dir)
    assert not other.exists()
    assert copy.folder.is_dir()


def test_a_node_that_joins_without_access_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_actor(name: str) -> Any:
        raise ValueError(name)

    fake_ray = SimpleNamespace(get_actor=no_actor, is_initialized=lambda: True)
    monkeypatch.setattr(actor_filesystem, "ray", fake_ray)
    assert open_run_dir(tmp_path).folder == tmp_path

    message = f"Node {os.uname().nodename} joined the cluster but cannot access"
    with pytest.raises(UserError, match=message):
        open_run_dir(tmp_path / "nowhere")

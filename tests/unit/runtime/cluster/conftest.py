"""A run directory, and its file server as a process on another node sees it, without Ray's processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from raycomp.runtime.cluster import actor_filesystem, file_server, replica
from raycomp.runtime.cluster.file_server import RunFileServer

DRIVER_NODE = "a" * 32
OTHER_NODE = "b" * 32


class FakeActor:
    """Calls the methods of a file server in this process, and records the calls.

    The result of a call is what `ray.get` gets, so `ray.get` returns it unchanged.
    """

    def __init__(self, server: RunFileServer) -> None:
        self.server = server
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, method: str) -> Any:
        def remote(*args: Any) -> Any:
            self.calls.append((method, args))
            return getattr(self.server, method)(*args)

        return SimpleNamespace(remote=remote)

    def count_calls(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with three files and a lock, next to another run."""
    folder = tmp_path / "storage" / "demo-0"
    for name in ("teacher/network.safetensors", "facts.json", "train/x/checkpoint/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{{{name}}}")
    (folder / ".lock").write_text("held")

    other_run = folder.parent / "other-1"
    other_run.mkdir()
    (other_run / "job.json").write_text("another's")
    return folder


@pytest.fixture
def actor(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeActor:
    """The file server on the driver node. This process is on another node that does not see the run."""
    monkeypatch.setenv("RAYCOMP_WORK", str(tmp_path / "work"))
    fake_actor = FakeActor(RunFileServer(str(run_dir)))

    def fake_ray(node_id: str) -> SimpleNamespace:
        return SimpleNamespace(
            get=lambda result: result,
            is_initialized=lambda: True,
            exceptions=SimpleNamespace(RayActorError=RayActorError),
            get_actor=lambda name: fake_actor,
            get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: node_id),
        )

    monkeypatch.setattr(replica, "ray", fake_ray(OTHER_NODE))
    monkeypatch.setattr(replica, "_opened_run_dirs", {})
    monkeypatch.setattr(replica, "read_marker", lambda path: "")
    monkeypatch.setattr(file_server, "ray", fake_ray(DRIVER_NODE))
    monkeypatch.setattr(actor_filesystem, "ray", fake_ray(DRIVER_NODE))
    return fake_actor


def file_names(folder: Path) -> set[str]:
    """Return the paths of all files in a directory."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

"""Tasks in a Ray session that continues: none of them is left after a failure or Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from raycomp.errors import UserError
from raycomp.runtime.cluster import node_tasks, tasks, waiting
from raycomp.runtime.cluster.tasks import run_tasks


class FakeRay:
    """Ray in this process: tasks are numbers, and `wait` does what the test says.

    Args:
        on_wait: Called by `wait` with its references.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayError)

    def __init__(self, on_wait: Callable[[list[int]], None] = lambda references: None) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.failing: set[int] = set()
        self.free = {"CPU": 4.0}
        self._on_wait = on_wait

    def is_initialized(self) -> bool:
        return True

    def available_resources(self) -> dict[str, float]:
        return self.free

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeID": "0" * 56, "Resources": {"edge": 1.0, "CPU": 4.0}}]

    def remote(self, function: Callable[..., Any]) -> Any:
        def start(*args: Any) -> int:
            self.started.append(len(self.started))
            return self.started[-1]

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=start))

    def wait(self, references: list[int], **options: Any) -> tuple[list[int], list[int]]:
        self._on_wait(references)
        return references[:1], references[1:]

    def get(self, references: Any) -> None:
        if isinstance(references, int):
            self.wait([references])
        elif self.failing & set(references):
            raise RayError("out of memory")

    def cancel(self, reference: int, force: bool) -> None:
        assert force
        self.cancelled.append(reference)


def interrupt(references: list[int]) -> None:
    raise KeyboardInterrupt


def work(number: int) -> None:
    """Do nothing: the fake does not call it."""


def use(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    monkeypatch.setattr(tasks, "ray", ray)
    monkeypatch.setattr(node_tasks, "ray", ray)
    return ray


def test_all_calls_run_and_at_most_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    ray = use(FakeRay(lambda references: running.append(len(references))), monkeypatch)
    done: list[int] = []
    run_tasks(work, [(number,) for number in range(5)], {}, done.append, max_parallel=2)
    assert ray.started == [0, 1, 2, 3, 4]
    assert running == [2, 2, 2, 2, 1]
    assert done == [0, 1, 2, 3, 4, 5]
    assert ray.cancelled == []


def test_ctrl_c_cancels_the_tasks_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = use(FakeRay(interrupt), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(work, [(number,) for number in range(5)], {}, lambda done: None, max_parallel=3)
    assert ray.cancelled == [0, 1, 2]


def test_a_failed_task_cancels_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = use(FakeRay(), monkeypatch)
    ray.failing = {1}
    monkeypatch.setattr(tasks, "_describe", lambda error, source, run_dir: f"{source}, {error}")
    calls = [(number,) for number in range(5)]
    with pytest.raises(UserError) as caught:
        run_tasks(work, calls, {}, lambda done: None, max_parallel=3, title="fine-tuning")
    assert str(caught.value) == (
        "A task of the fine-tuning failed: work, out of memory. Correct this, then run the same command "
        "again: finished tasks are not repeated."
    )
    # The first task has ended, and another one took its place.
    assert ray.cancelled == [2, 3]


def test_ctrl_c_cancels_the_task_that_waits_for_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = use(FakeRay(interrupt), monkeypatch)
    ray.free = {}
    with pytest.raises(KeyboardInterrupt):
        run_tasks(work, [(1,)], {}, lambda done: None, say=print)
    assert ray.cancelled == [0]


def test_ctrl_c_cancels_a_call_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = use(FakeRay(interrupt), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        node_tasks.run_on_node("edge", 1, work, 1)
    assert ray.cancelled == [0]


def test_tasks_end_with_a_message_when_their_last_node_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself waits without limit for a node that never comes back."""
    ray = use(FakeRay(), monkeypatch)
    monkeypatch.setattr(ray, "wait", lambda references, **options: ([], references))
    monkeypatch.setattr(waiting, "count_worker_slots", lambda cpus, gpus: 0)
    calls = [(number,) for number in range(3)]
    with pytest.raises(UserError, match=r"^The pruning cannot continue: for 0 s .* no node"):
        run_tasks(work, calls, {"num_gpus": 1.0}, lambda done: None, 2, title="pruning", node_seconds=0.0)
    assert ray.cancelled == [0, 1]

"""The lines about work that waits for resources."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.errors import UserError
from raycomp.runtime.cluster import tasks, waiting
from raycomp.runtime.cluster.waiting import GroupsNotice, NodeWatch, Resources, WaitNotice


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets, and a cluster with three free GPUs."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock.now)
    fake_ray = SimpleNamespace(available_resources=lambda: {"GPU": 3.0, "CPU": 0.5})
    monkeypatch.setattr(waiting, "ray", fake_ray)
    return clock


def test_work_that_waits_says_so_now_and_then(clock: SimpleNamespace) -> None:
    lines: list[str] = []
    notice = WaitNotice("super-network", lines.append)
    for second in range(1200):
        clock.now = float(second)
        notice.update(Resources(16, 8))

    assert lines[0] == "super-network waits for 8 GPUs, 3 free, 10 s"
    seconds = [int(line.split(", ")[-1].removesuffix(" s")) for line in lines]
    assert seconds == [10, 20, 40, 80, 160, 320, 620, 920]


def test_work_that_runs_says_nothing(clock: SimpleNamespace) -> None:
    lines: list[str] = []
    notice = WaitNotice("search", lines.append)
    for second in range(100):
        clock.now = float(second)
        notice.update(None)
    assert not lines

    # From now on it waits again.
    clock.now = 109.0
    notice.update(Resources(1))
    assert lines == ["search waits for 1 CPU, 0.5 free, 10 s"]


def test_tasks_wait_in_rays_queue_and_say_so(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[dict[str, float]] = []

    def options(**resources: float) -> SimpleNamespace:
        submitted.append(resources)
        return SimpleNamespace(remote=lambda: "probe")

    def wait(references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        clock.now += timeout
        return (references, []) if clock.now > 25 else ([], references)

    fake_ray = SimpleNamespace(
        available_resources=lambda: {"CPU": 4.0},
        remote=lambda function: SimpleNamespace(options=options),
        wait=wait,
    )
    monkeypatch.setattr(tasks, "ray", fake_ray)
    lines: list[str] = []
    tasks._wait_for_resources("features", {"num_gpus": 1.0}, lines.append)
    assert lines == ["features waits for 1 GPU, 3 free, 10 s", "features waits for 1 GPU, 3 free, 20 s"]
    assert submitted == [{"num_gpus": 1.0}]

    # There is room.
    tasks._wait_for_resources("features", {"num_cpus": 2.0}, lines.append)
    assert len(submitted) == 1


def a_group(state: str, **bundle: float) -> dict[str, Any]:
    """Return a placement group as Ray lists it."""
    return {"state": state, "bundles": {0: bundle}}


def test_a_training_of_several_that_waits_is_named(clock: SimpleNamespace) -> None:
    """Each of them waits for a moment when it starts, which says nothing."""
    table: dict[str, Any] = {"of another run": a_group("PENDING", CPU=8.0)}
    waiting.ray.util = SimpleNamespace(placement_group_table=lambda: dict(table))
    lines: list[str] = []
    notice = GroupsNotice("healing", lines.append)

    for second in range(40):
        clock.now = float(second)
        for name in [name for name in table if name.startswith("start")]:
            del table[name]
        table[f"start {second}"] = a_group("PENDING", CPU=4.0)
        table["trial"] = a_group("PENDING", memory=1.0)
        notice.update()
    assert lines == []

    table["late"] = a_group("PENDING", CPU=4.0)
    for second in range(40, 65):
        clock.now = float(second)
        notice.update()
    assert lines == [
        "healing waits for 4 CPUs, 0.5 free, 10 s",
        "healing waits for 4 CPUs, 0.5 free, 20 s",
    ]

    table["late"] = a_group("CREATED", CPU=4.0)
    del table["start 39"]
    for second in range(65, 100):
        clock.now = float(second)
        notice.update()
    assert len(lines) == 2


def test_tasks_whose_last_node_is_gone_do_not_wait_for_ever(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = 1
    monkeypatch.setattr(waiting, "count_worker_slots", lambda cpus, gpus: slots)
    lines: list[str] = []
    watch = NodeWatch("fine-tuning", Resources(1.0, 1.0), 120.0, lines.append)

    def watch_until(end: float) -> None:
        while clock.now < end:
            clock.now += 1.0
            watch.update()

    watch_until(500)
    slots = 0
    with pytest.raises(UserError) as caught:
        watch_until(1000)
    assert clock.now == 621.0
    assert lines[0] == "fine-tuning waits for 1 GPU, 3 free, 10 s"
    assert str(caught.value) == (
        "The fine-tuning cannot continue: for 120 s (train.barrier_seconds) no node of the cluster had "
        "the 1 CPUs and 1 GPUs that a task needs. Add a node, then run the same command again: finished "
        "tasks are not repeated."
    )

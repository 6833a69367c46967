"""The lines about work that waits for resources."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raycomp.runtime.cluster import tasks, waiting
from raycomp.runtime.cluster.waiting import Resources, WaitNotice


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

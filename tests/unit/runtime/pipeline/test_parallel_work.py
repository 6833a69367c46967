"""Tasks and trainings at the same time: never more than the free memory of the nodes allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline import handle, parallel_work
from raycomp.runtime.pipeline.handle import RayRun
from raycomp.runtime.pipeline.parallel_work import (
    TRAINED_BYTES,
    WorkSize,
    limit_parallel,
    plan_tasks,
    task_bytes,
    training_bytes,
)
from raycomp.runtime.scoring.evaluator_slots import PROCESS_BYTES, EvaluatorNode

GIB = 2**30
NODES = [EvaluatorNode("a", 16, 2.0, 9 * GIB), EvaluatorNode("b", 8, 0.0, None)]


@pytest.mark.parametrize(
    ("size", "count"),
    [
        # Node a has memory for four, node b has CPUs for eight.
        (WorkSize(1.0, 0.0, 2 * GIB), 12),
        (WorkSize(4.0, 0.0, 2 * GIB), 6),
        (WorkSize(0.5, 0.0, 9 * GIB), 17),
        (WorkSize(1.0, 1.0, GIB), 2),
        (WorkSize(1.0, 0.0, 2 * GIB, 4), 3),
        # One that may be too large is better than work that never starts.
        (WorkSize(64.0, 0.0, GIB), 1),
    ],
)
def test_the_number_that_fits(size: WorkSize, count: int) -> None:
    assert size.count_on(NODES) == count


def test_a_smaller_number_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_work, "read_nodes", lambda: NODES)
    lines: list[str] = []
    size = WorkSize(1.0, 0.0, 3 * GIB)
    assert limit_parallel("augmentation", 24, 30, size, lines.append) == 11
    (line,) = lines
    assert line.startswith("Augmentation runs 11 at a time, although Ray has room for 24: each")
    assert "needs about 3.0 GiB" in line
    assert limit_parallel("augmentation", 8, 4, size, lines.append, driver_node="a") == 3
    assert limit_parallel("augmentation", 16, 11, size, lines.append) == 16
    assert len(lines) == 2


def test_tasks_have_a_limit_only_where_memory_sets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, they use nodes that join later too."""
    monkeypatch.setattr(parallel_work, "read_nodes", lambda: NODES)
    monkeypatch.setattr(parallel_work, "count_worker_slots", lambda cpus, gpus=0: 2 if gpus else 24)
    small = plan_tasks(30, 1, GIB // 2, needs_gpu=False, is_pinned=False)
    assert small.options == {"num_cpus": 1.0}
    assert small.limit("augmentation", print) is None
    large = plan_tasks(30, 1, 3 * GIB, needs_gpu=False, is_pinned=False)
    assert large.limit("augmentation", lambda line: None) == 11
    # Two GPUs, and memory for one task.
    on_gpu = plan_tasks(3, 1, 5 * GIB, needs_gpu=True, is_pinned=False)
    assert on_gpu.options == {"num_gpus": 1.0}
    assert on_gpu.limit("fine-tuning", lambda line: None) == 1


def test_nothing_is_asked_where_one_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(parallel_work, "read_nodes")
    assert limit_parallel("pruning", 4, 1, WorkSize(1.0, 0.0, GIB), print) == 4


def test_memory_grows_with_what_is_trained(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    full = context.space.largest()
    params = context.costs.cost("params", full)
    trained = context.costs.cost("encoder_params", full)
    alone = training_bytes(context, {"name": "a", "archs": [full.to_json()]})
    pair = training_bytes(context, {"name": "a", "archs": [full.to_json()] * 2})
    assert pair - alone == TRAINED_BYTES * trained
    assert alone > 3 * PROCESS_BYTES + TRAINED_BYTES * trained + 8 * params

    assert task_bytes(context, reads_models=False) == PROCESS_BYTES
    assert task_bytes(context, reads_models=True) == PROCESS_BYTES + 16 * params


def test_parallel_healing_is_bounded_and_its_groups_are_not(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups of a run that resumes must be the same, whatever memory is free then."""
    monkeypatch.setattr(parallel_work, "read_nodes", lambda: [EvaluatorNode("a", 32, 0.0, 5 * GIB)])
    monkeypatch.setattr(handle, "count_worker_slots", lambda cpus, gpus: int(32 // cpus))
    context = RunContext(parse_job(tiny_job), tmp_path / "run", method="yoco")
    run = RayRun(context, None)
    arch = context.space.largest().to_json()
    trials = [{"name": str(number), "archs": [arch]} for number in range(8)]
    assert run.parallel_trainings(4) == 8
    assert run._limit_trainings("healing", trials, 4) == 2
    assert run._limit_trainings("healing", trials[:2], 4) == 8

"""Evaluators on each node: never more than its CPUs, GPUs and free memory allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.runtime.scoring.evaluator_slots import (
    MEMORY_SHARE,
    PROCESS_BYTES,
    EvaluatorNode,
    EvaluatorPlan,
    evaluator_bytes,
    evaluator_node,
    plan_evaluators,
)
from raycomp.storage.machine_limits import MachineLimits

GIB = 2**30


def make_plan(nodes: list[EvaluatorNode], requested: int = 0, gpus: float = 0.0) -> EvaluatorPlan:
    return plan_evaluators(nodes, requested=requested, gpus=gpus, memory=2 * GIB, ray_slots=8)


@pytest.mark.parametrize(
    ("limits", "cpus", "memory"),
    [
        # The processes of the node may use 2 of the 192 CPUs that Ray counts.
        (MachineLimits(2, 10 * GIB), 2, int(MEMORY_SHARE * 10 * GIB)),
        (MachineLimits(256, None), 192, None),
        (None, 192, None),
    ],
)
def test_a_node_has_what_ray_and_its_limits_allow(
    limits: MachineLimits | None, cpus: int, memory: int | None
) -> None:
    node = evaluator_node("a", {"CPU": 192.0, "GPU": 4.0}, limits)
    assert node == EvaluatorNode("a", cpus, 4.0, memory)


def test_memory_bounds_the_number_and_leaves_more_threads_for_each() -> None:
    plan = make_plan([EvaluatorNode("a", 24, 0.0, 8 * GIB)])
    assert plan == EvaluatorPlan(("a",) * 4, threads=6, cpus=6.0, is_limited=True)


def test_each_node_gets_as_many_as_fit_there() -> None:
    nodes = [EvaluatorNode("a", 6, 0.0, None), EvaluatorNode("b", 8, 0.0, 4 * GIB)]
    plan = make_plan(nodes)
    assert sorted(plan.nodes) == ["a"] * 6 + ["b"] * 2
    assert (plan.threads, plan.is_limited) == (1, False)


def test_a_requested_number_is_kept_and_shares_the_cpus() -> None:
    nodes = [EvaluatorNode("a", 4, 0.0, None), EvaluatorNode("b", 2, 0.0, None)]
    plan = make_plan(nodes, requested=8)
    assert len(plan.nodes) == 8
    for node in nodes:
        assert plan.nodes.count(node.node_id) * plan.cpus <= node.cpus
    few = make_plan(nodes, requested=2)
    assert (few.threads, few.cpus, few.nodes) == (2, 2.0, ("a", "a"))


def test_gpus_bound_the_number() -> None:
    nodes = [EvaluatorNode("a", 16, 2.0, None), EvaluatorNode("b", 16, 0.0, None)]
    assert make_plan(nodes, gpus=1.0).nodes == ("a", "a")
    assert make_plan(nodes, gpus=0.5).nodes == ("a",) * 4


def test_a_search_starts_with_one_evaluator_where_none_would_fit() -> None:
    nodes = [EvaluatorNode("head", 0, 0.0, 9 * GIB), EvaluatorNode("a", 2, 0.0, GIB)]
    assert make_plan(nodes).nodes == ("a",)


def test_an_evaluator_needs_its_process_and_its_weights_twice(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    weights = 4 * context.costs.cost("params", context.space.largest())
    needed = evaluator_bytes(context)
    assert PROCESS_BYTES + 2 * weights < needed < PROCESS_BYTES + 2 * weights + 100 * 2**20
    tiny_job["search"]["max_tokens"] = 65536
    assert evaluator_bytes(RunContext(parse_job(tiny_job), tmp_path / "run")) > needed

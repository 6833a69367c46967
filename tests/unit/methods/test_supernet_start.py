"""The start of a super-network: refused settings, and its learning rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.methods.supernet import SupernetTask
from raycomp.storage.tensors import save_tensors


@pytest.mark.parametrize(
    ("method", "section", "key", "value", "is_refused"),
    [
        ("ofa", "train", "init", "pretrained", True),
        ("dynabert", "train", "init", "pretrained", True),
        ("dynabert", "space", "reorder", False, True),
        # OFA sorts units by their weights in its own phases.
        ("ofa", "space", "reorder", False, False),
        ("hat", "space", "reorder", False, False),
        ("yoco", "train", "init", "pretrained", False),
    ],
)
def test_settings_of_yoco_do_not_change_what_another_method_is(
    method: str,
    section: str,
    key: str,
    value: Any,
    is_refused: bool,
    tiny_job: dict[str, Any],
    tmp_path: Any,
) -> None:
    tiny_job["run"]["methods"] = [method]
    tiny_job.setdefault(section, {})[key] = value
    context = RunContext(parse_job(tiny_job), tmp_path, method=method)
    problems = load_method_class(method)().find_problems(context)
    assert bool(problems) == is_refused
    if is_refused:
        assert f"{section}.{key}" in problems[0]
        assert "another job" in problems[0]


@pytest.mark.parametrize(("schedule", "middle"), [("late", 1e-3), ("run", 1e-3 * 11 / 19)])
def test_a_super_network_has_the_rate_of_its_schedule(
    tiny_job: dict[str, Any], tmp_path: Any, schedule: str, middle: float
) -> None:
    tiny_job["train"] |= {"schedule": schedule, "learning_rate": 1e-3, "warmup": 0.0}
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    save_tensors(context.files.supernet_start, context.network().state_dict())
    plan = {"num_steps": 20, "phase_starts": [0], "distill": "none"}
    task = SupernetTask(context, plan, device=torch.device("cpu"), reduce=None)
    assert task.updater.schedule(9) == pytest.approx(middle)

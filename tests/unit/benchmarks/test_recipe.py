"""The benchmark of training recipes: which objective and rate its steps have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.layer_targets import IDENTITY, LAST
from benchmarks.recipe import Recipe
from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.training.hints import DISTILLATION, Hidden
from raycomp.training.layer_maps import layer_pairs


@pytest.mark.parametrize(
    ("distill", "objective"),
    [
        ("none", DISTILLATION["none"]),
        ("teacher", DISTILLATION["teacher"]),
        ("benchmarks.layer_targets:LAST", LAST),
    ],
)
def test_a_recipe_trains_with_the_objective_and_the_schedule_of_its_job(
    distill: str, objective: Any, tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"distill": distill, "schedule": "late", "learning_rate": 1e-3, "warmup": 0.0}
    tiny_job["train"] |= settings
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    phases = progressive_phases(context.space)
    schedule = Schedule(phases, (0,) * (len(phases) - 1) + (20,))
    network = context.network()
    step = Recipe(context, "fp32").make_step(network, network, None, schedule)
    assert step.objective is objective
    assert (step.teacher is None) == (distill == "none")
    assert step.updater.schedule(9) == pytest.approx(1e-3)


def test_targets_of_a_sub_network_of_two_of_six_layers() -> None:
    pairs = {}
    for name, objective in (("identity", IDENTITY), ("last", LAST)):
        (hint,) = (part for _, part in objective.terms if isinstance(part, Hidden))
        pairs[name] = layer_pairs(hint.map, (0, 1), 6)
    assert pairs == {"identity": [(0, 0), (1, 1), (2, 2)], "last": [(2, 6)]}

"""The benchmark of healing's settings: its divergence, and its words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.heal_settings import draw_networks, mean_divergence, parse_settings
from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext


def test_the_divergence_is_that_of_torch_and_0_for_equal_predictions() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 5, 3))
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(torch.tensor(student), 1),
        torch.log_softmax(torch.tensor(teacher), 1),
        log_target=True,
        reduction="batchmean",
    )
    assert mean_divergence(teacher, student) == pytest.approx(float(expected))
    # A constant that all logits share changes no probability.
    assert mean_divergence(teacher, teacher + 7) == pytest.approx(0, abs=1e-12)
    assert math.isnan(mean_divergence(teacher[:, :1], student[:, :1]))


def test_settings_are_written_as_in_a_job() -> None:
    text = 'steps=700 learning_rate=3e-4 distill="logits"'
    assert parse_settings(text) == {"steps": 700, "learning_rate": 3e-4, "distill": "logits"}


def test_drawn_networks_use_a_budget_and_differ(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    budget = context.job.budget[0]
    limit = context.budget(budget)
    archs = draw_networks(context, budget.name, 2)
    assert len(archs) == len(set(archs)) > 1
    assert all(0.85 * limit.limit <= limit.cost(arch) <= limit.limit for arch in archs)
    depths = [arch.depth for arch in archs]
    assert max(depths.count(depth) for depth in depths) <= 2

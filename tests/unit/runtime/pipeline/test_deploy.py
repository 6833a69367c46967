"""Limits are checked on the model that was loaded back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.deploy import _check_counts

COUNTS = {"params": 100.0, "encoder_params": 40.0, "flops": 9.0}


@pytest.mark.parametrize(
    ("kind", "limits", "message"),
    [
        ("params", {"params": 100}, ""),
        ("params", {"params": 99}, "has 100 params, but the limit is 99"),
        # AdaBERT's setting is no limit.
        ("beta", {"beta": 1}, ""),
        ("limits", {"latency_ms": 5, "params": 100}, ""),
        ("limits", {"latency_ms": 5, "params": 99}, "has 100 params, but the limit is 99"),
        ("limits", {"encoder_params": 40, "flops": 8}, "has 9 flops, but the limit is 8"),
    ],
)
def test_every_counted_limit_is_checked(
    kind: str, limits: dict[str, Any], message: str, tiny_job: dict[str, Any]
) -> None:
    tiny_job["budget"] = [{"name": "edge", "params": "0.5x"}]
    costs = SimpleNamespace(limits=lambda budget: limits)
    context = cast(RunContext, SimpleNamespace(job=parse_job(tiny_job), budget_costs=costs))
    deployable = Deployable("edge", kind, float(next(iter(limits.values()))), None)

    if not message:
        _check_counts(context, deployable, COUNTS)
        return
    with pytest.raises(UserError, match=message):
        _check_counts(context, deployable, COUNTS)

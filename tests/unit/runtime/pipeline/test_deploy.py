"""Limits are checked on the model that was loaded back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raycomp.config.loader import parse_job
from raycomp.deployment.certificate import DeploymentLimit
from raycomp.errors import UserError
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.deploy import _check_counts, _write_certificate
from raycomp.storage.rows import DeploymentRow
from tests.unit.deployment.test_certificate import certify

ROW = DeploymentRow(
    run="run", method="yoco", budget="edge", kind="latency_ms", limit=3.0, feasible=True,
    searcher="rated", seed=0, metric="accuracy", evaluations=1, teacher_validation=0.8,
)  # fmt: skip


def test_the_model_card_has_the_measured_figures_and_the_verdict(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    folder = context.layout.export("yoco", "edge")
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# A model\n")
    certificate = certify(DeploymentLimit("latency_ms", 3.0))
    model = Deployable("edge", "latency_ms", 3.0, None, certificate=certificate)

    _write_certificate(context, ROW, model)
    card = (folder / "README.md").read_text()
    assert card.startswith("# A model\n")
    for part in ("Verdict: PASS", "p50 4.00, p95 12", "p99", "FAIL: 4 (allowed: 3)", "CPU, 2 threads"):
        assert part in card

    # A budget of parameters has no measured files.
    _write_certificate(context, ROW, Deployable("edge", "params", 3.0, None))
    assert (folder / "README.md").read_text() == card


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

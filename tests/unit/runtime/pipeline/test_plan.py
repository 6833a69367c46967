"""The plan of a job: the memory that its search needs on this machine."""

from __future__ import annotations

from typing import Any

import pytest

from raycomp.cli.output import print_plan
from raycomp.config.loader import parse_job
from raycomp.runtime.pipeline import plan as module
from raycomp.runtime.pipeline.plan import make_plan
from raycomp.storage.machine_limits import MachineLimits


def test_a_plan_says_the_memory_of_the_search(
    tiny_job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 24)
    monkeypatch.setattr(module, "measure_limits", lambda: MachineLimits(24, 4 * 2**30))
    plan = make_plan(parse_job(tiny_job))
    size = plan["search"]
    # 0.8 of 4 GiB have room for 5 processes of about 0.6 GiB, although there are 24 CPUs.
    assert size["evaluators"] == 5
    assert 0.6 < size["evaluator_gib"] < 0.64
    print_plan(plan)
    assert "the search about 0.6 GiB for each evaluator (5 evaluators on this machine)" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_a_plan_without_a_search_does_not_mention_it(
    tiny_job: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_job["run"]["methods"] = ["first_n"]
    plan = make_plan(parse_job(tiny_job))
    assert plan["search"] is None
    print_plan(plan)
    assert "evaluator" not in capsys.readouterr().out

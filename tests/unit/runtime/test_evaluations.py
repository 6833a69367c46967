"""How many evaluations the budgets of a job share."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.search.search_loop import evaluation_budget


@pytest.mark.parametrize("budgets", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("asked", [4, 40, 64, 1000])
def test_all_budgets_stay_within_thirteen_tenths_of_one(
    tiny_job: dict[str, Any], budgets: int, asked: int
) -> None:
    data = copy.deepcopy(tiny_job)
    data["search"] = {"evaluations": asked}
    data["budget"] = [{"name": f"b{i}", "params": "0.5x"} for i in range(budgets)]
    total, shared = evaluation_budget(parse_job(data), 10**6)
    assert total == asked
    assert shared + budgets * (total - shared) <= 1.3 * total


def test_the_share_can_be_given(tiny_job: dict[str, Any]) -> None:
    data = copy.deepcopy(tiny_job)
    data["search"] = {"evaluations": 40, "shared_fraction": 0.84}
    assert evaluation_budget(parse_job(data), 10**6) == (40, 34)
    assert evaluation_budget(parse_job(data), 30) == (30, 26)

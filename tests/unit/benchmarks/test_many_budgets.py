"""Which budgets the search could have used better."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.many_budgets import SHAPE, list_costs, make_job, search_many
from raycomp.config.loader import parse_job
from raycomp.search.setup import SearchSetup


def test_the_costs_are_those_of_the_spaces_networks() -> None:
    setup = SearchSetup(parse_job(make_job(1, "rising", 0)), Path(), SHAPE)
    costs = list_costs(setup)
    space = setup.space
    rng = np.random.default_rng(0)
    drawn = [setup.costs.cost("encoder_params", space.sample_uniform(rng)) for _ in range(200)]
    assert set(drawn) <= set(costs)
    ends = (space.smallest(), space.largest())
    assert [costs[0], costs[-1]] == [setup.costs.cost("encoder_params", arch) for arch in ends]


def test_a_single_budget_uses_its_limit() -> None:
    figures = search_many(1, "rising", 0)
    assert figures["missed"] == 0
    assert figures["least_use"] >= 0.95

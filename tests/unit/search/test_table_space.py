"""Word tables in the search space: one more variable, in the order of the tables' parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import FULL_TABLE, Architecture, WordTable
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.search import predictor_search
from raycomp.search.budget import SearchBudget, cheapest_architecture
from raycomp.search.coarse_to_fine import CoarseToFine
from raycomp.search.distribution import ArchitectureDistribution, load_distribution
from raycomp.search.hat_evolution import HatEvolution
from raycomp.search.moves import cross, fit_to_limit, mutate, neighbours, shrink_to_limit
from raycomp.search.predictor_search import PredictorSearch
from raycomp.search.search_loop import infeasible_reason
from raycomp.search.searchers import EvolutionSearch, RandomSearch, make_searcher
from raycomp.search.setup import SearchSetup, make_space
from raycomp.search.space import SearchSpace

SHAPE = EncoderShape(1000, 96, 96, 32, (3,) * 4, (384,) * 4, 128, 2, 2, task_vocab_size=300)
TABLES = (
    WordTable(True, 8),
    WordTable(rank=8),
    WordTable(True, 32),
    WordTable(True),
    WordTable(rank=32),
    FULL_TABLE,
)
SPACE = SearchSpace(4, (2, 3, 4), (1, 2, 3), (64, 128, 384), tables=TABLES)
COSTS = CostModel(SHAPE, 64)
SMALL_FULL = Architecture(2, (1, 1), (64, 64))
SMALL_RANK = replace(SMALL_FULL, table=WordTable(rank=8))


def params(arch: Architecture) -> float:
    return float(COSTS.cost("params", arch))


def make_job(**embeddings: Any) -> Any:
    return parse_job(
        {
            "task": {"name": "demo/polarity"},
            "embeddings": embeddings,
            "budget": [{"name": "half", "params": "0.5x"}],
        }
    )


def test_the_tables_of_a_job_are_in_the_order_of_their_parameters() -> None:
    job = make_job(vocabulary=["full", "task"], rank=["full", 8, 32])

    tables = make_space(job, SHAPE).tables

    sizes = [params(replace(SPACE.largest(), table=table)) for table in tables]
    assert set(tables) == set(TABLES)
    assert sizes == sorted(sizes)
    assert tables[-1] == FULL_TABLE
    # Rank 80 makes the cut table of 300 x 96 larger, and the full one smaller.
    larger = make_space(make_job(vocabulary=["full", "task"], rank=["full", 80]), SHAPE).tables
    assert set(larger) == {WordTable(True), FULL_TABLE, WordTable(rank=80)}


def test_a_rank_that_saves_nothing_is_refused_with_the_largest_one() -> None:
    with pytest.raises(UserError, match=r"embeddings.rank has 90, but only ranks up to 87 make"):
        make_space(make_job(rank=["full", 90]), SHAPE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": [64]}, 'with "full" among them'),
        ({"vocabulary": ["task"]}, 'with "full" among them'),
        ({"rank": ["full", 8, 8]}, "each choice once"),
        ({"rank": ["full", 0]}, "at least 1"),
        ({"coverage": 0.2}, "coverage"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_job(**settings)


def test_jobs_without_choices_keep_their_identity() -> None:
    assert make_job().identity() == make_job(coverage=0.9).identity()
    assert make_job().identity() != make_job(rank=["full", 8]).identity()
    assert make_space(make_job(), SHAPE).tables == (FULL_TABLE,)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("is_plain", [False, True])
def test_encoding_round_trips_with_one_more_variable(joint: bool, is_plain: bool) -> None:
    space = replace(SPACE, heads=(3,), is_plain=True) if is_plain else SPACE
    rng = np.random.default_rng(0)
    drawn = {space.sample_uniform(rng) for _ in range(300)}

    assert {arch.table for arch in drawn} == set(TABLES)
    names = [variable.name for variable in space.variables(joint)]
    assert names[-1] == "table"
    for arch in drawn:
        assert space.contains(arch)
        indices = space.encode(arch, joint)
        assert len(indices) == len(names)
        assert space.decode(indices, joint) == arch
    one_table = replace(space, tables=(FULL_TABLE,))
    assert space.num_architectures() == 6 * one_table.num_architectures()


def test_a_space_with_one_table_draws_as_before() -> None:
    space = replace(SPACE, tables=(FULL_TABLE,))
    rng = np.random.default_rng(3)
    depth = int(rng.choice(space.depth))
    expected = Architecture(
        depth,
        tuple(int(h) for h in rng.choice(space.heads, depth)),
        tuple(int(k) for k in rng.choice(space.ffn, depth)),
    )

    assert space.sample_uniform(np.random.default_rng(3)) == expected
    assert [variable.name for variable in space.variables()][-1] == "ffn.3"
    # Plans of trainings do not have tables: the super-network is trained with the full one.
    assert SearchSpace.from_dict(SPACE.to_dict()) == space


def test_moves_reach_every_table() -> None:
    rng = np.random.default_rng(0)
    arch = SPACE.largest()
    reached = {arch.table}
    while smaller := [a for a in neighbours(arch, SPACE, -1) if a.table != arch.table]:
        assert len(smaller) == 1
        assert params(smaller[0]) < params(arch)
        arch = smaller[0]
        reached.add(arch.table)
    assert reached == set(TABLES)
    assert SPACE.smallest().table == TABLES[0]

    mutated = {mutate(arch, SPACE, 1.0, rng).table for _ in range(100)}
    assert mutated == set(TABLES)
    first, second = SPACE.smallest(), SPACE.largest()
    assert {cross(first, second, SPACE, rng).table for _ in range(40)} == {TABLES[0], FULL_TABLE}


def test_a_trained_distribution_gets_a_uniform_variable() -> None:
    trained = ArchitectureDistribution(replace(SPACE, tables=(FULL_TABLE,)).variables())
    state = {"joint": False, "dist": trained.state_dict()}

    theta, _ = load_distribution(SPACE, state)

    assert len(theta.theta) == len(trained.theta) + 1
    assert theta.theta[-1] == pytest.approx(1 / 6)
    assert "table" not in str(state)


@pytest.mark.parametrize("name", ["rated", "sng", "random", "evolution", "hat", "ofa", "grid"])
def test_searchers_propose_small_tables_where_the_budget_needs_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All scores are equal, so there is nothing to learn from them.
    monkeypatch.setattr(predictor_search, "TRAINING_STEPS", 20)
    limit = 1.02 * params(replace(SPACE.smallest(), table=TABLES[1]))
    budget = SearchBudget(params, limit, params(SPACE.largest()))
    trained = ArchitectureDistribution(replace(SPACE, tables=(FULL_TABLE,)).variables())
    state = {"joint": False, "dist": trained.state_dict()}
    makers: dict[str, Any] = {
        "random": lambda: RandomSearch(SPACE, budget, 0),
        "evolution": lambda: EvolutionSearch(SPACE, budget, 0),
        "hat": lambda: HatEvolution(SPACE, budget, 0, population=8, parents=2, mutations=4),
        "ofa": lambda: PredictorSearch(SPACE, budget, 0, samples=20, population=8, rounds=2),
        "grid": lambda: CoarseToFine(SPACE, budget, 0),
    }
    searcher = makers.get(name, lambda: make_searcher(name, SPACE, state, budget, 0))()

    proposed: list[Architecture] = []
    for _ in range(6):
        archs = searcher.ask(4)
        searcher.tell(archs, [0.5] * len(archs), [0.5] * len(archs))
        proposed += archs

    assert all(SPACE.contains(arch) for arch in proposed)
    met = [arch for arch in proposed if budget.is_met_by(arch)]
    assert met
    assert {arch.table for arch in met} <= set(TABLES[:2])


def test_a_network_that_fits_grows_its_table() -> None:
    def encoder_params(arch: Architecture) -> float:
        return float(COSTS.cost("encoder_params", arch))

    limit = encoder_params(SPACE.largest()) / 2
    rng = np.random.default_rng(0)

    fitted = fit_to_limit(SPACE.smallest(), SPACE, encoder_params, limit, rng)

    # The budget does not count the table, so nothing is gained by a smaller one.
    assert fitted is not None
    assert fitted.table == FULL_TABLE


def flops(arch: Architecture) -> float:
    return float(COSTS.cost("flops", arch))


def test_the_cheapest_network_has_the_cheapest_table_of_its_kind_of_cost() -> None:
    """A rank saves parameters and adds FLOPs."""
    assert flops(SPACE.smallest()) > flops(replace(SPACE.smallest(), table=FULL_TABLE))
    arch, least = cheapest_architecture(SPACE, flops)
    assert arch.table.rank is None
    assert least == flops(arch) == flops(replace(SPACE.smallest(), table=FULL_TABLE))
    assert cheapest_architecture(SPACE, params)[0] == SPACE.smallest()


def test_shrinking_for_flops_drops_a_rank() -> None:
    start = replace(SPACE.largest(), table=FULL_TABLE)
    limit = flops(replace(SPACE.smallest(), table=FULL_TABLE))
    assert limit < flops(SPACE.smallest())
    rng = np.random.default_rng(0)
    for table in TABLES:
        shrunk = shrink_to_limit(replace(start, table=table), SPACE, flops, limit, rng)
        assert shrunk is not None
        assert flops(shrunk) == limit


def test_a_network_that_fits_in_flops_has_the_full_table() -> None:
    rng = np.random.default_rng(0)
    limit = flops(SPACE.largest()) / 2
    for _ in range(20):
        fitted = fit_to_limit(SPACE.sample_uniform(rng), SPACE, flops, limit, rng)
        # Each rank costs FLOPs, and the full table is the more accurate one.
        assert fitted is not None
        assert fitted.table == FULL_TABLE
        assert 0.8 * limit < flops(fitted) <= limit


def make_setup(tmp_path: Path, **limits: float) -> SearchSetup:
    data = {
        "task": {"name": "demo/polarity", "max_length": 64},
        "space": {"depth": [2, 4], "heads": [1, 3], "ffn": [64, 384]},
        "embeddings": {"rank": ["full", 8]},
        "budget": [{"name": "edge", **limits}],
    }
    return SearchSetup(parse_job(data), tmp_path, SHAPE)


def test_a_flops_limit_below_the_network_of_fewest_parameters_is_feasible(tmp_path: Path) -> None:
    low, high = sorted((flops(SMALL_FULL), flops(SMALL_RANK)))
    setup = make_setup(tmp_path, flops=(low + high) / 2)
    assert infeasible_reason(setup, setup.job.budget[0]) == ""
    below = make_setup(tmp_path, flops=low - 1)
    assert f"Nearest feasible limit: {low:,.0f}" in infeasible_reason(below, below.job.budget[0])


def test_limits_that_need_different_tables_cannot_be_met_together(tmp_path: Path) -> None:
    limits = {"params": params(SMALL_RANK), "flops": flops(SMALL_FULL)}
    setup = make_setup(tmp_path, **limits)
    reason = infeasible_reason(setup, setup.job.budget[0])
    assert "cannot be met together" in reason
    enough = make_setup(tmp_path, **{**limits, "flops": flops(SMALL_RANK)})
    assert infeasible_reason(enough, enough.job.budget[0]) == ""

"""A plain space has networks of equal layers only, whoever draws, changes or searches them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search import predictor_search
from raycomp.search.budget import SearchBudget
from raycomp.search.coarse_to_fine import CoarseToFine
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.hat_evolution import HatEvolution
from raycomp.search.moves import fit_to_limit, mutate, neighbours
from raycomp.search.predictor_search import PredictorSearch
from raycomp.search.searchers import EvolutionSearch, RandomSearch
from raycomp.search.setup import make_space
from raycomp.search.space import SearchSpace

PLAIN = SearchSpace(6, (2, 3, 4, 6), (12,), (256, 512, 1536), is_plain=True)
ELASTIC = SearchSpace(6, (2, 3, 4, 6), (12,), (256, 512, 1536))
SHAPE = EncoderShape(1000, 384, 384, 32, (12,) * 6, (1536,) * 6, 128, 2, 2)
COSTS = CostModel(SHAPE, 64)


def cost(arch: Architecture) -> float:
    return float(COSTS.cost("encoder_params", arch))


def is_plain(arch: Architecture) -> bool:
    return set(arch.heads) == {12} and len(set(arch.ffn)) == 1


def test_the_space_has_one_network_per_depth_and_width() -> None:
    rng = np.random.default_rng(0)
    drawn = {PLAIN.sample_uniform(rng) for _ in range(500)}

    assert len(drawn) == PLAIN.num_architectures() == 12
    assert all(is_plain(arch) and PLAIN.contains(arch) for arch in drawn)
    assert not PLAIN.contains(Architecture(2, (12, 12), (256, 512)))
    assert [variable.name for variable in PLAIN.variables()] == ["depth", "ffn"]
    for arch in drawn:
        assert PLAIN.decode(PLAIN.encode(arch)) == arch
    assert SearchSpace.from_dict(PLAIN.to_dict()) == PLAIN
    # Plans of elastic spaces stay as they were.
    assert list(ELASTIC.to_dict()) == ["layers", "depth", "heads", "ffn"]
    assert SearchSpace.from_dict(ELASTIC.to_dict()) == ELASTIC


def test_layer_sums_are_the_cost_models() -> None:
    rng = np.random.default_rng(0)
    archs = [PLAIN.sample_uniform(rng) for _ in range(20)]
    sums = PLAIN.layer_sums(lambda h, k: cost(Architecture(1, (h,), (k,))))
    rows = np.stack([PLAIN.encode(arch) for arch in archs])
    assert sums(rows).tolist() == [cost(arch) for arch in archs]


def test_moves_stay_in_the_space_and_reach_the_limit() -> None:
    rng = np.random.default_rng(0)
    limit = 0.5 * cost(PLAIN.largest())
    for _ in range(100):
        arch = PLAIN.sample_uniform(rng)
        moved = [*neighbours(arch, PLAIN, 1), *neighbours(arch, PLAIN, -1)]
        changed = [mutate(arch, PLAIN, 0.5, rng), *moved]
        fitted = fit_to_limit(arch, PLAIN, cost, limit, rng)
        assert fitted is not None
        assert cost(fitted) <= limit
        assert all(PLAIN.contains(network) for network in [*changed, fitted])
        assert arch not in moved
    # The same moves in an elastic space are the mutant.
    mixed = [mutate(ELASTIC.sample_uniform(rng), ELASTIC, 0.5, rng) for _ in range(50)]
    assert not all(is_plain(arch) for arch in mixed)


SEARCHERS: list[Callable[[SearchBudget], Any]] = [
    lambda budget: RandomSearch(PLAIN, budget, 0),
    lambda budget: EvolutionSearch(PLAIN, budget, 0),
    lambda budget: HatEvolution(PLAIN, budget, 0, 8, 3, 3, generations=4),
    lambda budget: PredictorSearch(PLAIN, budget, 0, samples=4, population=8, rounds=3),
    lambda budget: CoarseToFine(PLAIN, budget, 0),
]


@pytest.mark.parametrize("make", SEARCHERS)
def test_searchers_propose_plain_networks_only(
    make: Callable[[SearchBudget], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a predictor has learnt does not matter here.
    monkeypatch.setattr(predictor_search, "TRAINING_STEPS", 10)
    largest = cost(PLAIN.largest())
    searcher = make(SearchBudget(cost=cost, limit=0.6 * largest, largest=largest))

    proposed: list[Architecture] = []
    for _ in range(8):
        archs = searcher.ask(3)
        proposed += archs
        values = [cost(arch) / largest for arch in archs]
        searcher.tell(archs, values, [1 - value for value in values])

    assert proposed
    assert all(PLAIN.contains(arch) for arch in proposed)
    assert any(cost(arch) <= 0.6 * largest for arch in proposed)


def test_the_sampler_opens_and_learns_plain_networks() -> None:
    phases = progressive_phases(PLAIN)
    assert [phase.name for phase in phases] == [
        "largest",
        "ffn-512",
        "ffn-256",
        "depth-4",
        "depth-3",
        "depth-2",
    ]
    schedule = Schedule(phases, (1, 1, 1, 1, 1, 300))
    costs = PLAIN.layer_sums(lambda h, k: cost(Architecture(1, (h,), (k,))))
    sampler = EESNG(PLAIN, schedule, EESNGSettings(pairing="matched", update="asng"), costs)
    sampler_free = EESNG(PLAIN, schedule, EESNGSettings(pairing="free", update="asng"), costs)

    for step in range(schedule.total):
        for one in (sampler, sampler_free):
            archs = one.ask(step)
            assert all(PLAIN.contains(arch) for arch in archs)
            if step == 0:
                assert archs == [PLAIN.largest()]
            one.tell(step, [float(arch.ffn[0]) for arch in archs])  # narrow FFNs are good here

    theta = dict(zip(("depth", "ffn"), sampler_free.distribution.theta, strict=True))
    assert theta["ffn"].argmax() == 0


def test_a_distribution_over_the_space_decodes_to_plain_networks() -> None:
    theta = ArchitectureDistribution(PLAIN.variables())
    for row in theta.sample(np.random.default_rng(0), 50):
        assert PLAIN.contains(PLAIN.decode(row))


def make_job(**space: Any) -> Job:
    budget = [{"name": "half", "encoder_params": "0.5x"}]
    return Job.model_validate({"task": {"name": "glue/sst2"}, "space": space, "budget": budget})


def test_the_job_key() -> None:
    space = make_space(make_job(plain=True, depth=[2, 4, 6], ffn=[512, 1536]), SHAPE)
    assert space == SearchSpace(6, (2, 4, 6), (12,), (512, 1536), is_plain=True)
    assert make_job().identity() == make_job(plain=False).identity() != make_job(plain=True).identity()


@pytest.mark.parametrize("space", [{"heads": [4, 12]}, {"joint": True}, {"ffn": [0, 1536]}])
def test_settings_that_contradict_it_are_refused(space: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="plain = true"):
        make_job(plain=True, **space)


def test_a_plain_space_needs_one_number_of_heads() -> None:
    with pytest.raises(UserError, match="one number of heads"):
        SearchSpace(2, (1, 2), (2, 4), (16,), is_plain=True)

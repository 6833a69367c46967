"""One trial of the deployment search: initial set, searcher, last resort."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.search_loop import SearchLoop, SearchTrial, evaluation_budget
from raycomp.search.setup import SearchSetup

SHAPE = EncoderShape(
    vocab_size=100, hidden_size=32, embedding_size=32, head_size=8, layer_heads=(4,) * 4,
    layer_ffn=(64,) * 4, max_position_embeddings=32, type_vocab_size=2, num_labels=2,
)  # fmt: skip


def make_setup(tiny_job: dict[str, Any], tmp_path: Path, **search: Any) -> SearchSetup:
    data = copy.deepcopy(tiny_job)
    data["space"] = {"depth": [2, 3, 4], "heads": [1, 2, 4], "ffn": [16, 32, 64]}
    data["search"] = {"evaluations": 20, "batch": 4, **search}
    data["budget"] = [{"name": name, "encoder_params": f"{s}x"} for name, s in (("a", 0.7), ("b", 0.5))]
    return SearchSetup(parse_job(data), tmp_path, SHAPE)


def theta_of(setup: SearchSetup) -> dict[str, Any]:
    """Return an untrained distribution, as a sampler's state has it."""
    dist = ArchitectureDistribution(setup.space.variables(False))
    return {"joint": False, "dist": dist.state_dict()}


def run(loop: SearchLoop, value: float | None = None) -> list[list[Architecture]]:
    """Run a trial; each architecture scores `value`, or by its number of heads."""
    batches = []
    while archs := loop.ask():
        batches.append(archs)
        values = [sum(a.heads) / 100 if value is None else value for a in archs]
        loop.tell(archs, values, [0.5] * len(archs))
    return batches


def test_a_trial_asks_for_the_initial_set_first_and_for_as_many_as_it_may(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(tiny_job, tmp_path)
    total, shared = evaluation_budget(setup.job, setup.space.num_architectures())
    loops = [SearchLoop(setup, theta_of(setup), SearchTrial(name, "random", 0)) for name in ("a", "b")]
    first, second = (run(loop) for loop in loops)

    assert first[0] == second[0], "budgets share the initial set"
    assert len(first[0]) == shared
    assert all(len(batch) <= 4 for batch in first[1:])
    assert loops[0].num_evaluations == len(set(loops[0].archs)) == total == 20


def test_the_best_architecture_meets_the_budget(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path)
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("b", "random", 1))
    run(loop)
    arch, value, loss = loop.best()
    budget = setup.budget(setup.job.budget[1])

    assert budget.is_met_by(arch)
    assert (value, loss) == (sum(arch.heads) / 100, 0.5)
    assert value == max(sum(a.heads) / 100 for a in loop.archs if budget.is_met_by(a))


def test_the_smallest_network_is_the_last_resort(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path, shared_fraction=0.0)
    smallest = setup.space.smallest()
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("b", "random", 0))
    loop._searcher.ask = lambda n: [setup.space.largest()]  # type: ignore[method-assign]

    assert run(loop) == [[setup.space.largest()], [setup.space.largest()], [smallest]]
    assert loop.best()[0] == smallest
    assert loop.num_evaluations == 2


def test_best_refuses_before_a_feasible_architecture_has_a_score(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(tiny_job, tmp_path)
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("b", "random", 0))
    with pytest.raises(ValueError, match="no architecture meets the budget"):
        loop.best()


@pytest.mark.parametrize("num_budgets", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("evaluations", [4, 40, 64, 1000])
def test_all_budgets_together_need_at_most_thirteen_tenths_of_one(
    tiny_job: dict[str, Any], num_budgets: int, evaluations: int
) -> None:
    data = copy.deepcopy(tiny_job)
    data["search"] = {"evaluations": evaluations}
    data["budget"] = [{"name": f"b{i}", "params": "0.5x"} for i in range(num_budgets)]

    total, shared = evaluation_budget(parse_job(data), 10**6)
    assert total == evaluations
    assert shared + num_budgets * (total - shared) <= 1.3 * total


def test_the_shared_fraction_can_be_set(tiny_job: dict[str, Any]) -> None:
    data = copy.deepcopy(tiny_job)
    data["search"] = {"evaluations": 40, "shared_fraction": 0.84}

    assert evaluation_budget(parse_job(data), 10**6) == (40, 34)
    # There are fewer architectures than evaluations.
    assert evaluation_budget(parse_job(data), 30) == (30, 26)

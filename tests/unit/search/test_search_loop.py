"""One trial of the deployment search: initial set, searcher, last resort."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.search.budget_groups import evaluation_budget
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.search_loop import SearchLoop, SearchTrial, search_groups
from raycomp.search.setup import SearchSetup

SHAPE = EncoderShape(
    vocab_size=100, hidden_size=32, embedding_size=32, head_size=8, layer_heads=(4,) * 4,
    layer_ffn=(64,) * 4, max_position_embeddings=32, type_vocab_size=2, num_labels=2,
)  # fmt: skip


def make_setup(tiny_job: dict[str, Any], tmp_path: Path, **search: Any) -> SearchSetup:
    data = copy.deepcopy(tiny_job)
    data["space"] = {"depth": [2, 3, 4], "heads": [1, 2, 4], "ffn": [16, 32, 64]}
    paper = {"smoothing": 0.0, "min_use": 0.0}
    data["search"] = {"evaluations": 20, "batch": 4, **paper, **search}
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
    total, shared = evaluation_budget(20, None, 2, setup.space.num_architectures())
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
    arch, value, loss = loop.best("b")
    budget = setup.budget(setup.job.budget[1])

    assert budget.is_met_by(arch)
    assert (value, loss) == (sum(arch.heads) / 100, 0.5)
    assert value == max(sum(a.heads) / 100 for a in loop.archs if budget.is_met_by(a))


def test_the_smallest_network_is_the_last_resort(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path, shared_fraction=0.0)
    smallest = setup.space.smallest()
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("b", "random", 0))
    loop._searcher.ask = lambda n: [setup.space.largest()]  # type: ignore[method-assign]
    loop._is_filled = True

    assert run(loop) == [[setup.space.largest()], [setup.space.largest()], [smallest]]
    assert loop.best("b")[0] == smallest
    assert loop.num_evaluations == 2


def test_an_architecture_that_is_told_twice_counts_once(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path, smoothing=1.0)
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("b", "random", 0))
    rng = np.random.default_rng(0)
    archs = list(dict.fromkeys(setup.space.sample_uniform(rng) for _ in range(12)))
    archs.append(setup.space.smallest())
    values = rng.random(len(archs)).tolist()
    losses = rng.random(len(archs)).tolist()

    loop.tell(archs, values, losses)
    once = loop.ranked("b")
    loop.tell(archs[-1:] * 5, values[-1:] * 5, losses[-1:] * 5)

    assert once
    assert loop.ranked("b") == once
    assert len(loop.archs) == len(set(archs))


def test_best_refuses_before_a_feasible_architecture_has_a_score(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(tiny_job, tmp_path)
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("b", "random", 0))
    with pytest.raises(ValueError, match="no architecture meets the budget"):
        loop.best("b")


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 8, 16, 50, 94])
@pytest.mark.parametrize("evaluations", [4, 40, 64, 1000])
def test_all_groups_together_need_fewer_evaluations_than_the_root_of_their_number(
    num_groups: int, evaluations: int
) -> None:
    total, shared = evaluation_budget(evaluations, None, num_groups, 10**6)
    own = total - shared
    together = shared + num_groups * own

    assert total == evaluations
    assert num_groups == 1 or own >= 1
    # One network per group is the least, however few evaluations there are.
    assert together <= max(total * num_groups**0.5, total + num_groups - 1)


def test_the_shared_fraction_can_be_set() -> None:
    assert evaluation_budget(40, 0.84, 2, 10**6) == (40, 34)
    # There are fewer architectures than evaluations.
    assert evaluation_budget(40, 0.84, 2, 30) == (30, 26)


def test_searcher_and_initial_set_draw_different_numbers(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(tiny_job, tmp_path, shared_fraction=0.5)
    loop = SearchLoop(setup, theta_of(setup), SearchTrial("a", "random", 0))
    initial = loop.ask()
    own = [loop._searcher.ask(1)[0] for _ in range(4)]
    assert own != initial[:4]


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_every_one_of_many_budgets_is_used_up(
    tiny_job: dict[str, Any], tmp_path: Path, order: str
) -> None:
    shares = list(np.linspace(0.3, 1.0, 60))
    if order == "falling":
        shares.reverse()
    if order == "shuffled":
        np.random.default_rng(0).shuffle(shares)
    setup = make_setup(tiny_job, tmp_path, smoothing=0.5, min_use=0.95)
    budgets = [{"name": f"b{i}", "encoder_params": f"{share}x"} for i, share in enumerate(shares)]
    data = {**setup.job.model_dump(exclude_unset=True), "budget": budgets}
    setup = SearchSetup(parse_job(data), tmp_path, SHAPE)
    theta = theta_of(setup)
    costs = every_cost(setup)
    asked: set[Architecture] = set()

    for group in search_groups(setup):
        loop = SearchLoop(setup, theta, SearchTrial(group.name, "rated", 0))
        run(loop)
        asked |= set(loop.archs)
        for budget in loop.members:
            limit = setup.limit(budget)
            used = setup.costs.cost("encoder_params", loop.best(budget.name)[0])
            reachable = costs[costs <= limit].max()
            assert used >= 0.95 * min(limit, reachable), budget
    assert len(asked) <= 20 * 60**0.5


def every_cost(setup: SearchSetup) -> np.ndarray:
    """Return the costs of all architectures of the space, by their number of layers of each shape."""
    space = setup.space
    layers = [
        setup.costs.cost("encoder_params", Architecture(1, (h,), (k,)))
        for h in space.heads
        for k in space.ffn
    ]
    combinations = [
        sum(chosen)
        for depth in space.depth
        for chosen in itertools.combinations_with_replacement(layers, depth)
    ]
    return np.array(sorted(set(combinations)))

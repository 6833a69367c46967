"""Budgets on latency, memory and file size, and several limits in one budget."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import WordTable
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.encoder.device_table import Conditions, DeviceTable
from raycomp.errors import UserError
from raycomp.search.device_budgets import (
    BudgetCosts,
    DeviceState,
    conditions_of,
    find_named_tables,
    read_lengths,
)
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.search_loop import SearchLoop, SearchTrial, infeasible_reason, search_groups
from raycomp.search.setup import SearchSetup, make_space
from tests.unit.invented_device import CONDITIONS, InventedBench, make_table

SHAPE = EncoderShape(
    vocab_size=100, hidden_size=64, embedding_size=64, head_size=16, layer_heads=(4,) * 4,
    layer_ffn=(128,) * 4, max_position_embeddings=32, type_vocab_size=2, num_labels=2,
)  # fmt: skip
SPACE = {"depth": [1, 2, 3, 4], "heads": [1, 2, 4], "ffn": [32, 64, 128]}


def make_job(tiny_job: dict[str, Any], budgets: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    data = copy.deepcopy(tiny_job)
    data["space"] = SPACE
    data["search"] = {"evaluations": 30, "batch": 4}
    data["budget"] = budgets
    return {**data, **sections}


def make_setup(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    budgets: list[dict[str, Any]],
    corrections: dict[str, dict[str, float]] | None = None,
) -> SearchSetup:
    job = parse_job(make_job(tiny_job, budgets))
    tables = {
        budget.name: make_table(make_space(job, SHAPE), SHAPE, conditions=conditions_of(job, budget))
        for budget in job.budget
        if budget.is_for_device
    }
    return SearchSetup(job, tmp_path, SHAPE, device=DeviceState(tables, corrections or {}))


def search(setup: SearchSetup, budget: str) -> SearchLoop:
    dist = ArchitectureDistribution(setup.space.variables(False))
    theta = {"joint": False, "dist": dist.state_dict()}
    group = next(g for g in search_groups(setup) if budget in {b.name for b in g.members})
    loop = SearchLoop(setup, theta, SearchTrial(group.name, "rated", 0))
    while archs := loop.ask():
        # More neurons and more heads are better, as far as the budget allows.
        values = [sum(a.heads) / 40 + sum(a.ffn) / 1280 for a in archs]
        loop.tell(archs, values, [1 - value for value in values])
    return loop


def test_the_search_keeps_a_limit_on_latency_and_uses_it(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 6}])
    arch, _, _ = search(setup, "edge").best("edge")
    assert 0.85 * 6 <= InventedBench().time(arch) <= 6


def test_flops_do_not_stand_in_for_latency(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """Neurons are nearly free on this device, and half of the FLOPs: wide FFNs must win."""
    setup = make_setup(
        tiny_job, tmp_path, [{"name": "edge", "latency_ms": 5}, {"name": "half", "flops": "0.5x"}]
    )
    edge, _, _ = search(setup, "edge").best("edge")
    half, _, _ = search(setup, "half").best("half")
    assert np.mean(edge.ffn) / np.mean(edge.heads) > np.mean(half.ffn) / np.mean(half.heads)
    assert setup.costs.cost("flops", edge) != pytest.approx(setup.budget_costs.limit(setup.job.budget[0]))


def test_a_network_must_meet_all_limits_of_a_budget(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    limits = {"latency_ms": 8, "size_mb": 5.0, "params": 60_000}
    setup = make_setup(tiny_job, tmp_path, [{"name": "edge", **limits}])
    (budget,) = setup.job.budget
    assert (budget.kind, setup.limit(budget)) == ("limits", 1.0)
    archs = search(setup, "edge").archs
    assert any(not setup.budget(budget).is_met_by(arch) for arch in archs) or len(archs) > 3

    bench = InventedBench()
    for arch in archs:
        is_met = (
            bench.time(arch) <= 8 and bench.size(arch) <= 5 and setup.costs.cost("params", arch) <= 6e4
        )
        assert setup.budget(budget).is_met_by(arch) == is_met


def test_several_computed_limits_need_no_device(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path, [{"name": "both", "params": "0.9x", "flops": "0.4x"}])
    budget = setup.budget(setup.job.budget[0])
    full = setup.space.largest()
    for arch in search(setup, "both").archs:
        is_met = setup.costs.cost("params", arch) <= 0.9 * setup.costs.cost(
            "params", full
        ) and setup.costs.cost("flops", arch) <= 0.4 * setup.costs.cost("flops", full)
        assert budget.is_met_by(arch) == is_met


def test_a_relative_limit_refers_to_the_full_network(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path, [{"name": "edge", "latency_ms": "0.5x"}])
    expected = InventedBench().time(setup.space.largest()) / 2
    assert setup.limit(setup.job.budget[0]) == pytest.approx(expected)


def test_budgets_of_one_device_with_near_limits_are_searched_together(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budgets = [
        {"name": "a", "latency_ms": 6.0},
        {"name": "b", "latency_ms": 6.1},
        {"name": "c", "latency_ms": 6.0, "threads": 2},
        {"name": "d", "latency_ms": 6.0, "percentile": 95},
    ]
    groups = search_groups(make_setup(tiny_job, tmp_path, budgets))
    assert [[b.name for b in g.members] for g in groups] == [["a", "b"], ["c"], ["d"]]
    # A budget whose model failed has tighter predictions than the others.
    corrected = make_setup(tiny_job, tmp_path, budgets, {"a": {"latency_ms": 1.1}})
    groups = search_groups(corrected)
    assert [[b.name for b in g.members] for g in groups] == [["a"], ["b"], ["c"], ["d"]]


def test_a_correction_makes_the_search_choose_faster_networks(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(
        tiny_job, tmp_path, [{"name": "edge", "latency_ms": 6}], {"edge": {"latency_ms": 1.25}}
    )
    arch, _, _ = search(setup, "edge").best("edge")
    assert InventedBench().time(arch) <= 6 / 1.25
    assert setup.limit(setup.job.budget[0]) == 6, "the user's limit stays"


def test_an_unreachable_limit_names_the_nearest_one(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 0.7, "size_mb": 100}])
    reason = infeasible_reason(setup, setup.job.budget[0])
    # 1 ms, and 40% of a layer of 1 head and 32 neurons: 1.4528 ms.
    assert "Budget edge: latency_ms <= 0.7 cannot be met" in reason
    assert "Nearest feasible limit: 1.46." in reason
    assert "size_mb" not in reason
    nearest = make_setup(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 1.46}])
    assert infeasible_reason(nearest, nearest.job.budget[0]) == ""


@pytest.mark.parametrize(
    ("runtime", "row_bytes"),
    # OpenVINO has a scale in fp32 for each row of INT8.
    [("onnxruntime", 256), ("onnxruntime-int8", 64), ("openvino", 256), ("openvino-int8", 68)],
)
def test_a_cut_word_table_saves_the_bytes_of_its_rows(
    tiny_job: dict[str, Any], runtime: str, row_bytes: int
) -> None:
    budgets = [{"name": "edge", "size_mb": 5.0, "runtime": runtime}]
    job = parse_job(make_job(tiny_job, budgets, space={}))
    (budget,) = job.budget
    space = make_space(job, SHAPE)
    table = make_table(space, SHAPE, conditions=conditions_of(job, budget))
    base = CostModel(replace(SHAPE, task_vocab_size=40), 16)
    costs = BudgetCosts(base, space.largest(), DeviceState({"edge": table}))

    cut = replace(space.largest(), table=WordTable(is_cut=True))
    sizes = [costs.predict(budget, "size_mb", arch) for arch in (space.largest(), cut)]
    assert sizes[0] - sizes[1] == pytest.approx(60 * row_bytes / 1e6)


def test_the_space_reaches_one_layer_only_with_a_budget_for_a_device(tiny_job: dict[str, Any]) -> None:
    def depths(budget: dict[str, Any]) -> tuple[int, ...]:
        job = parse_job(make_job(tiny_job, [{"name": "b", **budget}], space={}))
        return make_space(job, shape).depth

    shape = EncoderShape.from_dict({**SHAPE.to_dict(), "layer_heads": [4] * 12, "layer_ffn": [128] * 12})
    assert depths({"encoder_params": "0.5x"}) == (6, 8, 10, 12)
    assert depths({"latency_ms": 8}) == (1, 2, 4, 6, 8, 10, 12)
    assert depths({"size_mb": 8}) == (1, 2, 4, 6, 8, 10, 12)


@pytest.mark.parametrize(
    ("runtime", "step"),
    [("onnxruntime", 16), ("onnxruntime-int8", 32), ("openvino", 16), ("openvino-int8", 32)],
)
def test_widths_are_multiples_with_a_budget_for_a_device(
    tiny_job: dict[str, Any], runtime: str, step: int
) -> None:
    budgets = [{"name": "edge", "latency_ms": 8, "runtime": runtime}]
    shape = EncoderShape.from_dict({**SHAPE.to_dict(), "layer_ffn": [200] * 4})
    space = make_space(parse_job(make_job(tiny_job, budgets, space={})), shape)
    assert space.ffn[-1] == 200, "the full network stays"
    assert all(width % step == 0 for width in space.ffn[:-1])
    assert all(heads * 16 % step == 0 for heads in space.heads)

    uneven = {"depth": [4], "heads": [4], "ffn": [40, 96, 200]}
    job = parse_job(make_job(tiny_job, budgets, space=uneven))
    nearest = {16: "space.ffn has 40.*Use 32 instead", 32: "space.ffn has 40.*Use 32 instead"}[step]
    with pytest.raises(UserError, match=nearest):
        make_space(job, shape)
    # Parameters do not depend on registers.
    plain = parse_job(make_job(tiny_job, [{"name": "half", "params": "0.5x"}], space=uneven))
    assert make_space(plain, shape).ffn == (40, 96, 200)


def write_profile(tmp_path: Path, table: DeviceTable) -> str:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({"tables": [table.to_dict()]}))
    return str(path)


def test_a_named_profile_is_read_where_it_fits(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    space = make_space(parse_job(make_job(tiny_job, [{"name": "e", "latency_ms": 6}])), SHAPE)
    path = write_profile(tmp_path, make_table(space, SHAPE, conditions=CONDITIONS))
    budget = {"name": "edge", "latency_ms": 6, "profile": path}

    def setup(shape: EncoderShape = SHAPE, **changes: Any) -> SearchSetup:
        job = parse_job(make_job(tiny_job, [{**budget, **changes}]))
        return SearchSetup(job, tmp_path / "run", shape)

    assert setup().budget(setup().job.budget[0]).limit == 6
    with pytest.raises(UserError, match=r"is for onnxruntime, 2 threads.* has onnxruntime, 1 thread"):
        setup(threads=2).device  # noqa: B018
    other = EncoderShape.from_dict({**SHAPE.to_dict(), "vocab_size": 101})
    with pytest.raises(UserError, match=r"is of another encoder"):
        setup(other).device  # noqa: B018
    with pytest.raises(UserError, match=r"does not exist.*raycomp profile JOB --out"):
        setup(profile="none.json").device  # noqa: B018
    Path(path).write_text('{"tables": [{"runtime": "torch"}]}')
    with pytest.raises(UserError, match="is not a profile of raycomp"):
        setup().device  # noqa: B018


def test_a_file_of_lengths_becomes_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("\n".join(str(n) for n in range(1000, 1, -1)))
    sample = read_lengths(path, "edge")
    assert len(sample) == 20
    assert (min(sample) < 40, max(sample) > 960, list(sample) == sorted(sample)) == (True, True, True)

    path.write_text("5 9")
    assert read_lengths(path, "edge") == (5, 9)
    for text in ("", "1\n5", "five"):
        path.write_text(text)
        with pytest.raises(UserError, match="Budget edge: the file of lengths"):
            read_lengths(path, "edge")


def test_conditions_take_the_length_of_the_task(tiny_job: dict[str, Any]) -> None:
    job = parse_job(make_job(tiny_job, [{"name": "edge", "latency_ms": 6, "threads": 2}]))
    assert conditions_of(job, job.budget[0]) == Conditions("onnxruntime", 2, 1, (16,))


def test_the_longest_text_counts_where_the_sample_lacks_it(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """Twenty long texts of a thousand are 2%: no quantile of twenty has them."""
    path = tmp_path / "lengths.txt"
    path.write_text("16\n" * 980 + "30\n" * 20)
    budget = {"name": "edge", "latency_ms": 6, "lengths": str(path)}
    job = parse_job(make_job(tiny_job, [budget]))
    conditions = conditions_of(job, job.budget[0])
    assert (conditions.lengths, conditions.max_length) == ((16,) * 20, 30)
    assert "length 16 to 30 (sample " in conditions.describe()

    # A profile of an earlier version lacks the longest text, and its times are those of the sample.
    table = make_table(make_space(job, SHAPE), SHAPE, conditions=replace(conditions, longest=None))
    assert "longest" not in table.to_dict()
    profile = write_profile(tmp_path, table)
    named = parse_job(make_job(tiny_job, [{**budget, "profile": profile}]))
    tables = find_named_tables(named, SHAPE)
    assert tables["edge"].conditions == conditions
    again = DeviceTable.from_dict(json.loads(json.dumps(tables["edge"].to_dict())))
    assert again.conditions == conditions

    path.write_text("16\n" * 900 + "30\n" * 100)
    assert conditions_of(job, job.budget[0]).longest is None


def test_budgets_with_other_samples_of_lengths_have_costs_of_their_own(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budgets = []
    for name, text in (("a", "4 8 30"), ("b", "4 20 30")):
        path = tmp_path / name
        path.write_text(text)
        budgets.append({"name": name, "latency_ms": 6, "lengths": str(path)})
    groups = search_groups(make_setup(tiny_job, tmp_path, budgets))
    assert [[b.name for b in g.members] for g in groups] == [["a"], ["b"]]

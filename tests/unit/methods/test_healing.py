"""Healing: what it trains, what it costs, how it resumes, and which network is deployed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.loader import parse_job
from raycomp.data.batches import Batch, TrainPlan
from raycomp.encoder.architecture import Architecture
from raycomp.methods import healing
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask, cut_network, load_healed
from raycomp.methods.healing import (
    HealedNetwork,
    find_lost_evaluations,
    group_networks,
    heal_networks,
    summarise_healing,
)
from raycomp.methods.healing_rounds import (
    HealedBudget,
    _alternate_depths,
    heal_in_rounds,
    select_candidates,
)
from raycomp.methods.subnetworks import (
    NOT_HEALED,
    _inherited_deployable,
    choose_healed,
    restore_subnetwork,
)
from raycomp.search.outcome import Outcome
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.rows import EvaluationRow
from raycomp.storage.tables import read_table, write_rows
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.testing.local_run import LocalRun
from raycomp.training import int8_rounding
from raycomp.training.int8_rounding import Int8Rounding
from tests.unit.methods.golden import prepare_teacher

SMALL = Architecture(1, (1,), (16,))
MIDDLE = Architecture(2, (2, 4), (32, 16))
LARGE = Architecture(3, (4, 4, 2), (64, 32, 16))


class HealingRun(LocalRun):
    """A run that records the sweeps and what it says.

    Attributes:
        slots: Trainings that the cluster has room for.
        sweeps: Number of trials of each sweep.
        lines: Lines that the user sees.
    """

    slots = 1

    def __init__(self, context: RunContext, stop_after: int | None = None) -> None:
        super().__init__(context, stop_after)
        self.sweeps: list[int] = []
        self.lines: list[str] = []

    def parallel_trainings(self, cpus: float) -> int:
        return self.slots

    def sweep(self, trials: Any, tasks: Any, *, cpus: float = 1.0) -> None:
        self.sweeps.append(len(trials))
        super().sweep(trials, tasks, cpus=cpus)

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def make_context(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> Callable[..., RunContext]:
    """Return a function that makes a run with a teacher and a super-network that differs from it."""
    tiny_job["model"]["name"] = str(tuned_model)

    def make(name: str = "run", **heal: Any) -> RunContext:
        tiny_job["heal"] = {"steps": 12, "learning_rate": 1e-2, **heal}
        context = RunContext(parse_job(tiny_job), tmp_path / name / "run")
        shutil.copytree(prepare_teacher(tiny_job, tmp_path.parent), tmp_path / name)
        weights = load_tensors(context.layout.teacher_network)
        write_json(context.layout.teacher_score, {"selection": {"accuracy": 0.9}})
        generator = torch.Generator().manual_seed(1)
        for key, value in weights.items():
            if key.startswith(("layers.", "classifier.")):
                weights[key] = value + 0.3 * torch.randn(value.shape, generator=generator)
        save_tensors(context.files.supernet_network, weights)
        return context

    return make


def weights_of(context: RunContext, arch: Architecture) -> dict[str, torch.Tensor]:
    return load_tensors(context.files.healed(arch.id).network)


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_networks_of_a_group_do_not_influence_each_other(
    dropout: float, make_context: Callable[..., RunContext]
) -> None:
    together = make_context("together", steps=4)
    together.job.train.__dict__["dropout"] = dropout
    heal_networks(HealingRun(together), "heal", [LARGE, SMALL])
    alone = make_context("alone", steps=4)
    alone.job.train.__dict__["dropout"] = dropout
    heal_networks(HealingRun(alone), "heal", [SMALL])
    assert_equal(weights_of(together, SMALL), weights_of(alone, SMALL))


def test_healing_brings_a_network_nearer_to_its_teacher(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context(steps=30)
    healed = heal_networks(HealingRun(context), "heal", [MIDDLE])[MIDDLE]
    steps = read_table(context.run_dir, "steps")
    assert len(steps) == 30

    tokens = context.tokens("selection")
    supernet = context.supernet().eval()
    inherited = HealingRun(context).score(lambda batch: supernet(batch, MIDDLE).logits, "selection")
    assert healed.loss < 0.8 * inherited.loss
    assert healed.examples == len(tokens)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_rounded_steps_make_a_network_better_in_few_bits(
    reduce_range: bool, make_context: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight bits cost this network nothing, so there would be nothing to restore.
    name_of_limit = "REDUCED_LARGEST_WEIGHT" if reduce_range else "LARGEST_WEIGHT"
    monkeypatch.setattr(int8_rounding, name_of_limit, 3)
    monkeypatch.setattr(int8_rounding, "LEVELS", 15)
    monkeypatch.setattr(healing, "needs_reduced_range", lambda: reduce_range)

    def measure_loss(name: str, share: float) -> float:
        context = make_context(name, steps=30, int8_share=share)
        heal_networks(HealingRun(context), "heal", [MIDDLE])
        network = load_healed(context, context.supernet(), MIDDLE)

        def forward(batch: Batch) -> torch.Tensor:
            with Int8Rounding(reduce_range=reduce_range):
                return network(batch).logits

        return HealingRun(context).score(forward, "train").loss

    assert measure_loss("rounded", 0.5) < 0.8 * measure_loss("plain", 0.0)


def test_a_healed_network_has_the_embeddings_of_the_super_network(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context()
    heal_networks(HealingRun(context), "heal", [MIDDLE])
    supernet = context.supernet()
    network = load_healed(context, supernet, MIDDLE)
    assert network.embeddings is supernet.embeddings
    assert not any(key.startswith("embeddings.") for key in weights_of(context, MIDDLE))

    inherited = cut_network(supernet, MIDDLE).state_dict()
    changed = [
        key for key, value in network.state_dict().items() if not torch.equal(value, inherited[key])
    ]
    assert {key.partition(".")[0] for key in changed} == {"layers", "pooler", "classifier"}
    exported = network.extract(network.largest).state_dict()
    assert torch.equal(exported["embeddings.word.weight"], supernet.embeddings.word.weight)


def test_an_interrupted_healing_resumes_bit_for_bit(make_context: Callable[..., RunContext]) -> None:
    whole = make_context("whole")
    heal_networks(HealingRun(whole), "heal", [LARGE, SMALL])

    context = make_context("interrupted")
    with pytest.raises(KeyboardInterrupt):
        heal_networks(HealingRun(context, stop_after=7), "heal", [LARGE, SMALL])
    assert not context.files.healed(SMALL.id).network.exists()
    run = HealingRun(context)
    heal_networks(run, "heal", [LARGE, SMALL])
    for arch in (LARGE, SMALL):
        assert_equal(weights_of(whole, arch), weights_of(context, arch))

    again = HealingRun(context)
    heal_networks(again, "heal", [LARGE, SMALL])
    assert again.trained == []


def test_each_network_has_its_evaluation_and_its_share_of_the_cost(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context()
    healed = heal_networks(HealingRun(context), "heal", [LARGE, SMALL])
    rows = read_table(context.run_dir, "evaluations").set_index("arch_id")
    for arch, network in healed.items():
        row = rows.loc[arch.id]
        assert (row["weights"], row["split"], row["value"]) == ("healed", "selection", network.value)
        assert row["weights_id"] == file_hash(context.files.healed(arch.id).network)

    costs = {arch: read_json(context.files.healed(arch.id).cost) for arch in healed}
    assert costs[LARGE]["share"] + costs[SMALL]["share"] == pytest.approx(1)
    assert costs[LARGE]["share"] > costs[SMALL]["share"]
    assert costs[SMALL]["steps"] == 12
    # Two epochs of six batches.
    assert costs[SMALL]["tokens"] == 2 * int(context.tokens("train").lengths.sum())
    seconds = float(read_table(context.run_dir, "steps")["seconds"].sum())
    assert summarise_healing(context) == {
        "networks": 2, "steps": 12, "least_steps": 12, "tokens": 2 * costs[SMALL]["tokens"],
        "seconds": seconds,
    }  # fmt: skip

    part = f"yoco-healed-{SMALL.id}"
    parts = {path.stem for path in context.layout.table("evaluations").glob("*.parquet")}
    assert find_lost_evaluations(context, parts) == []
    (message,) = find_lost_evaluations(context, parts - {part})
    assert SMALL.id in message


def test_groups_share_the_work_among_parallel_trainings(
    make_context: Callable[..., RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context()
    assert group_networks(context, [], 3) == []
    assert group_networks(context, [SMALL, LARGE], 1) == [[LARGE, SMALL]]
    assert group_networks(context, [SMALL, MIDDLE, LARGE], 2) == [[LARGE], [MIDDLE, SMALL]]
    assert len(group_networks(context, [SMALL, LARGE], 9)) == 2
    # Memory is limited: more than one group, one after the other.
    monkeypatch.setattr("raycomp.methods.healing.GROUP_PARAMS", 20_000)
    assert len(group_networks(context, [SMALL, MIDDLE, LARGE], 1)) > 1


def test_a_cluster_heals_groups_in_parallel_with_the_same_result(
    make_context: Callable[..., RunContext],
) -> None:
    one = make_context("one")
    heal_networks(HealingRun(one), "heal", [SMALL, LARGE])
    two = make_context("two")
    run = HealingRun(two)
    run.slots = 2
    heal_networks(run, "heal", [SMALL, LARGE])
    assert run.sweeps == [2]
    assert len(run.trained) == 2
    for arch in (SMALL, LARGE):
        assert_equal(weights_of(one, arch), weights_of(two, arch))


# Rounds


def other_networks(count: int) -> list[Architecture]:
    """Return different networks of one layer."""
    widths = [(heads, ffn) for ffn in (16, 32, 64) for heads in (1, 2, 4)]
    return [Architecture(1, (heads,), (ffn,)) for heads, ffn in widths[:count]]


def test_rounds_halve_the_networks_and_double_their_steps(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context(steps=6, rounds=3, networks=1)
    write_json(context.layout.teacher_score, {"selection": {"accuracy": 2.0}})
    run = HealingRun(context)
    archs = other_networks(4)
    healed = heal_in_rounds(run, "heal", {"tiny": archs})["tiny"]

    first = {arch: read_json(context.files.healed(arch.id).outcome)["loss"] for arch in archs}
    better = sorted(archs, key=first.__getitem__)[:2]
    second = {arch: read_json(context.files.healed(arch.id, 2).outcome)["loss"] for arch in better}
    best = min(better, key=second.__getitem__)
    assert [network.arch for network in healed.finalists] == [best]
    assert {network.arch: network.steps for network in healed.networks} == {
        **dict.fromkeys(archs, 6), **dict.fromkeys(better, 6 + 12), best: 6 + 12 + 24,
    }  # fmt: skip
    assert len(read_table(context.run_dir, "steps")) == 6 + 12 + 24
    assert len(read_table(context.run_dir, "evaluations")) == 4 + 2 + 1
    figures = summarise_healing(context)
    assert (figures["networks"], figures["least_steps"], figures["steps"]) == (4, 6, 42)
    assert figures["tokens"] == sum(network.tokens for network in healed.networks)

    # A round begins with the weights that the round before left.
    alone = make_context("alone", steps=6, rounds=3)
    heal_networks(HealingRun(alone), "heal", [best])
    heal_networks(HealingRun(alone), "heal", [best], 2)
    assert_equal(
        load_tensors(alone.files.healed(best.id, 2).network),
        load_tensors(context.files.healed(best.id, 2).network),
    )
    network = load_healed(context, context.supernet(), best)
    last = load_tensors(context.files.healed(best.id, 3).network)
    assert torch.equal(network.classifier.weight, last["classifier.weight"])


def make_heal_task(context: RunContext, number: int) -> HealTask:
    """Return the training of one network in a round."""
    plan = {"archs": [SMALL.to_json()], "round": number}
    return HealTask(context, plan, device=torch.device("cpu"), reduce=None)


def test_rounds_read_one_row_after_the_other(make_context: Callable[..., RunContext]) -> None:
    context = make_context(steps=1, rounds=3, batch_size=2)
    rows: list[int] = []
    for number in (1, 2, 3):
        plan = make_heal_task(context, number).batch_plan()
        rows += [row for i in range(context.job.heal.steps_of_round(number)) for row in plan.rows(i)]
        heal_networks(HealingRun(context), "heal", [SMALL], number)
    assert len(rows) == 2 * (1 + 2 + 4)
    assert len(set(rows)) == len(rows)

    # Runs that began earlier resume with their rows.
    first = TrainPlan(context.tokens("train").lengths, 2, context.job.run.seed)
    write_json(context.layout.inputs, {"data": "", "revision": 2})
    early = RunContext(context.job, context.run_dir)
    assert list(make_heal_task(early, 2).batch_plan().rows(0)) == list(first.rows(0))


def test_a_budget_near_its_teacher_needs_no_further_round(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context(steps=6, rounds=3, networks=1)
    write_json(context.layout.teacher_score, {"selection": {"accuracy": 0.01}})
    run = HealingRun(context)
    archs = other_networks(4)
    healed = heal_in_rounds(run, "heal", {"near": archs, "one": archs[:1]})
    assert len(run.trained) == 1
    assert [network.arch for network in healed["near"].finalists] == archs
    assert [network.arch for network in healed["one"].networks] == archs[:1]


@pytest.mark.parametrize(("target_retention", "trainings"), [(0.2, 1), (0.9, 3)])
def test_the_target_of_healing_decides_whether_a_budget_has_further_rounds(
    target_retention: float, trainings: int, make_context: Callable[..., RunContext]
) -> None:
    context = make_context(steps=6, rounds=3, target_retention=target_retention)
    trials = heal_networks(HealingRun(context), "heal", [SMALL])
    # The network keeps 30% of this teacher's score, and cannot keep 90%: no score is above 1.
    write_json(context.layout.teacher_score, {"selection": {"accuracy": trials[SMALL].value / 0.3}})
    run = HealingRun(context)
    heal_in_rounds(run, "heal", {"tiny": [SMALL]})
    assert len(run.trained) == trainings - 1  # The first round is done.


def test_a_network_that_was_healed_further_has_the_score_of_the_weights_that_are_deployed(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context(steps=6, rounds=2)
    write_json(context.layout.teacher_score, {"selection": {"accuracy": 2.0}})
    first = heal_in_rounds(HealingRun(context), "heal", {"tiny": [SMALL]})["tiny"].finalists[0]
    # A later search of a budget for which one round is enough.
    write_json(context.layout.teacher_score, {"selection": {"accuracy": 0.01}})
    run = HealingRun(context)
    again = heal_in_rounds(run, "heal", {"edge": [SMALL]})["edge"].finalists[0]
    assert run.trained == []
    assert again == first
    assert again.weights_id == file_hash(context.files.healed(SMALL.id, 2).network)


def test_interrupted_rounds_resume_bit_for_bit(make_context: Callable[..., RunContext]) -> None:
    archs = other_networks(4)
    whole, context = make_context("whole", steps=6), make_context("interrupted", steps=6)
    for each in (whole, context):
        write_json(each.layout.teacher_score, {"selection": {"accuracy": 2.0}})
    expected = heal_in_rounds(HealingRun(whole), "heal", {"tiny": archs})["tiny"]
    with pytest.raises(KeyboardInterrupt):
        heal_in_rounds(HealingRun(context, stop_after=10), "heal", {"tiny": archs})
    run = HealingRun(context)
    healed = heal_in_rounds(run, "heal", {"tiny": archs})["tiny"]

    # The first round had ended.
    assert len(run.trained) == 2
    (best,) = {network.arch for network in expected.finalists}
    assert [network.arch for network in healed.finalists] == [best]
    assert healed.finalists[0].loss == expected.finalists[0].loss
    for number in (1, 2, 3):
        assert_equal(
            load_tensors(whole.files.healed(best.id, number).network),
            load_tensors(context.files.healed(best.id, number).network),
        )


def test_candidates_far_from_the_teacher_have_all_depths() -> None:
    deep, shallow = Architecture(2, (1, 1), (16, 16)), Architecture(1, (1,), (16,))
    wide, widest = Architecture(1, (2,), (16,)), Architecture(1, (4,), (16,))
    assert _alternate_depths([shallow, wide, widest, deep]) == [shallow, deep, wide, widest]


# The choice of networks


def outcome(arch: Architecture, value: float) -> Outcome:
    return Outcome("half", "encoder_params", 1e9, "sng", 0, arch.to_json(), value, 0.5, 12, 1.0)


def record(context: RunContext, arch: Architecture, value: float, **changes: Any) -> None:
    row = EvaluationRow(
        arch.id, arch.to_json(), "selection", "fp32", "accuracy", value, 0.5, 20, 9, 9.0, 0.1,
        method="yoco", weights_id=file_hash(context.files.supernet_network), weights="inherited",
    )  # fmt: skip
    write_rows(context.run_dir, "evaluations", [{**row.to_row(), **changes}], f"part-{arch.id}")


def test_candidates_are_the_best_networks_that_meet_the_budget(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context(networks=2, rounds=1)
    half = context.job.budget[0]
    best = Architecture(1, (2,), (32,))
    record(context, LARGE, 0.99)
    record(context, SMALL, 0.6)
    record(context, Architecture(1, (1,), (32,)), 0.7)
    record(context, Architecture(1, (4,), (16,)), 0.9, weights_id="healed before")
    record(context, Architecture(1, (4,), (32,)), 0.9, split="validation")
    assert not context.budget(half).is_met_by(LARGE)
    chosen = select_candidates(context, half, [outcome(best, 0.8)])
    assert chosen == [best, Architecture(1, (1,), (32,))]
    # Near the teacher, one is enough.
    assert select_candidates(context, half, [outcome(best, 0.88)]) == [best]


def healed_network(arch: Architecture, value: float, loss: float = 0.4) -> HealedNetwork:
    return HealedNetwork(arch, value, loss, 100, "id", 12, 500, 2.0)


@pytest.mark.parametrize(
    ("inherited", "values", "chosen"),
    [
        (0.80, (0.85, 0.82), SMALL),
        (0.80, (0.82, 0.85), MIDDLE),
        # Within chance of the search's best, which is the luckiest of many.
        (0.89, (0.80, 0.70), SMALL),
        # Healing did harm.
        (0.95, (0.80, 0.70), None),
    ],
)
def test_the_best_healed_network_is_deployed_unless_healing_did_harm(
    inherited: float,
    values: tuple[float, float],
    chosen: Architecture | None,
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context()
    run = HealingRun(context)
    winner = outcome(LARGE, inherited)
    plain = _inherited_deployable(context, winner, [winner], "weights", "Made so.")
    networks = [healed_network(SMALL, values[0]), healed_network(MIDDLE, values[1])]
    # The third one was lucky in the first round, and is not in the last.
    healed = HealedBudget(networks, [*networks, healed_network(LARGE, 0.99)])
    deployable = choose_healed(run, plain, healed, "Made so.")

    assert deployable.arch_id == (chosen or LARGE).id
    assert deployable.selection == (inherited if chosen is None else max(values))
    assert deployable.healing is not None
    assert (deployable.healing.inherited, deployable.healing.healed) == (inherited, max(values))
    assert (deployable.healing.tokens, deployable.healing.seconds) == (1500, 6.0)
    assert (NOT_HEALED in deployable.description) == (chosen is None)
    assert bool(run.lines) == (chosen is None)


def test_a_tie_of_healed_networks_is_decided_by_the_loss(make_context: Callable[..., RunContext]) -> None:
    context = make_context()
    winner = outcome(LARGE, 0.5)
    plain = _inherited_deployable(context, winner, [winner], "weights", "Made so.")
    networks = [healed_network(SMALL, 0.8, loss=0.5), healed_network(MIDDLE, 0.8, loss=0.3)]
    healed = HealedBudget(networks, networks)
    assert choose_healed(HealingRun(context), plain, healed, "").arch_id == MIDDLE.id


def test_a_row_is_restored_with_the_weights_that_were_deployed(
    make_context: Callable[..., RunContext],
) -> None:
    context = make_context()
    heal_networks(HealingRun(context), "heal", [SMALL])
    row = {"arch": SMALL.to_json(), "budget": "half", "kind": "flops", "limit": 9.0, "selection": 0.8}
    healing = {
        "inherited": 0.7,
        "heal_networks": 2,
        "heal_steps": 12,
        "heal_tokens": 5,
        "heal_seconds": 1.0,
    }
    nothing = float("nan")
    supernet = context.supernet().eval()

    def classifier(**columns: Any) -> torch.Tensor:
        deployable = restore_subnetwork(context, {**row, **columns}, "Made so.")
        assert deployable.build is not None
        return deployable.build()[0].state_dict()["classifier.weight"]

    inherited = supernet.classifier.weight
    healed = load_healed(context, supernet, SMALL).classifier.weight
    assert not torch.equal(inherited, healed)
    assert torch.equal(classifier(healed=nothing), inherited)
    assert torch.equal(classifier(), inherited)
    assert torch.equal(classifier(healed=0.8, **healing), healed)
    # Healing did harm, so the network was deployed as it was.
    assert torch.equal(classifier(healed=0.6, **healing), inherited)

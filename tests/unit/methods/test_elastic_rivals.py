"""Golden facts of HAT, OFA, DynaBERT and the sandwich rule, each with a mutant that must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raycomp.encoder.architecture import Architecture
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.dynabert_stages import list_networks, matched_states, stage_objective
from raycomp.methods.hat import HatSampler, HatSettings
from raycomp.methods.ofa import OBJECTIVE, OfaSampler, SmoothedLabels
from raycomp.methods.ofa_phases import (
    OfaPhase,
    measure_norms,
    plan_phases,
    rank_inside_bands,
    sort_units,
)
from raycomp.methods.sandwich import SandwichSampler, SandwichStep
from raycomp.search import predictor_search
from raycomp.search.budget import SearchBudget
from raycomp.search.coarse_to_fine import CoarseToFine, equal_layers
from raycomp.search.hat_evolution import Gene, HatEvolution
from raycomp.search.predictor_search import AccuracyPredictor, PredictorSearch
from raycomp.search.space import SearchSpace
from raycomp.training.hints import LABELS_ONLY, Objective
from raycomp.training.optimizers import LinearDecay
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.methods.golden import full_width
from tests.unit.training.test_hints import STUDENT, TEACHER, one_row

SPACE = SearchSpace(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072))
TINY = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))


def weight_of(arch: Architecture) -> float:
    """A cost that grows with every dimension."""
    return float(sum(196_800 * h + 1_537 * k for h, k in zip(arch.heads, arch.ffn, strict=True)))


HALF = SearchBudget(weight_of, 42_000_000, weight_of(SPACE.largest()))


def loss_of(arch: Architecture) -> float:
    """A loss that many heads in early layers lower, so that evolution has something to find."""
    return 10.0 - sum(h / (i + 1) for i, h in enumerate(arch.heads))


def run_search(searcher: Any, batch: int, values: Callable[[Architecture], float]) -> list[Architecture]:
    """Run a searcher until it proposes nothing; return all networks in order."""
    scored: list[Architecture] = []
    while archs := searcher.ask(batch):
        searcher.tell(archs, [values(a) for a in archs], [loss_of(a) for a in archs])
        scored += archs
    return scored


# HAT.


def check_evolution(searcher: HatEvolution) -> None:
    """Each round's parents have the smallest losses of the round before, so the best never gets worse."""
    best: list[float] = []
    for _ in range(8):
        archs = searcher.ask(1000)
        # The value misleads: HAT ranks by loss alone.
        searcher.tell(archs, [loss_of(a) for a in archs], [loss_of(a) for a in archs])
        assert all(HALF.is_met_by(arch) for arch in archs)
        members = searcher._members
        best.append(min(searcher.history.scores[a][1] for a in members))
        smallest = sorted(searcher.history.scores[a][1] for a in dict.fromkeys(members))[:25]
        assert [searcher.history.scores[a][1] for a in searcher.parents()] == smallest
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0]


class ValueRanked(HatEvolution):
    """A mutant that ranks by the value instead of the loss."""

    def parents(self) -> list[Architecture]:
        scores = self.history.scores
        return sorted(dict.fromkeys(self._members), key=lambda a: -scores[a][0])[:25]


def test_hat_s_evolution_ranks_by_loss_within_the_budget() -> None:
    check_evolution(HatEvolution(SPACE, HALF, 0))
    with pytest.raises(AssertionError):
        check_evolution(ValueRanked(SPACE, HALF, 0))


def test_hat_scores_thirty_rounds_of_125_of_which_725_are_repeats() -> None:
    settings = HatSettings()
    assert settings.population * settings.generations == 3750
    assert settings.evaluations == 3750 - 725
    searcher = HatEvolution(SPACE, HALF, 0)
    scored = run_search(searcher, 100, lambda arch: 0.0)
    assert searcher.round == 30
    assert len(set(scored)) == len(scored) <= settings.evaluations
    # Crossovers of parents that have become similar repeat networks, too.
    assert len(scored) > 0.5 * settings.evaluations


def test_a_gene_pads_missing_layers_with_the_first_one() -> None:
    arch = Architecture(2, (8, 4), (768, 512))
    gene = Gene.of(arch, 4)
    assert gene.heads == (8, 4, 8, 8)
    assert gene.ffn == (768, 512, 768, 768)
    assert gene.decode() == arch


def test_identical_parents_without_mutation_have_identical_children() -> None:
    searcher = HatEvolution(SPACE, HALF, 0, mutation_rate=0.0)
    genes = [Gene.of(SPACE.smallest(), 12)] * 3
    children = {searcher._cross(genes) for _ in range(20)} | {searcher._mutate(genes) for _ in range(20)}
    assert children == {SPACE.smallest()}


def test_hat_s_evolution_resumes_where_it_stopped() -> None:
    whole, first = HatEvolution(SPACE, HALF, 3), HatEvolution(SPACE, HALF, 3)
    for searcher in (whole, first):
        archs = searcher.ask(40)
        searcher.tell(archs, [0.0] * 40, [loss_of(a) for a in archs])
    second = HatEvolution(SPACE, HALF, 99)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        archs = whole.ask(50)
        assert second.ask(50) == archs
        for searcher in (whole, second):
            searcher.tell(archs, [0.0] * len(archs), [loss_of(a) for a in archs])


def test_hat_trains_one_uniform_network_a_step() -> None:
    sampler = HatSampler(TINY, 0, {"population": 8})
    drawn_depths = [sampler.ask(step)[0].depth for step in range(900)]
    assert {len(sampler.ask(step)) for step in range(5)} == {1}
    assert np.bincount(drawn_depths)[1:] / 900 == pytest.approx([1 / 3] * 3, abs=0.05)
    assert sampler.state(0)["evolution"] == {"population": 8}


# OFA.


def test_ofa_opens_depth_then_heads_then_the_ffn() -> None:
    phases = plan_phases(TINY)
    assert [phase.dimension for phase in phases] == ["depth"] * 2 + ["heads"] * 2 + ["ffn"] * 2
    assert phases[0].space == SearchSpace(3, (2, 3), (4,), (64,))
    assert phases[3].space == SearchSpace(3, (1, 2, 3), (1, 2, 4), (64,))
    sampler = OfaSampler(TINY, [0, 5, 10, 15, 20, 25], [1, 2, 4], 0, {})
    assert [len(sampler.ask(step)) for step in (0, 9, 10, 19, 20, 29)] == [1, 1, 2, 2, 4, 4]
    assert {a.heads for step in range(10) for a in sampler.ask(step)} <= {(4,) * d for d in (1, 2, 3)}


def test_ofa_s_loss_has_the_value_of_the_fixture() -> None:
    loss, _ = OBJECTIVE.losses(STUDENT, TEACHER, one_row())
    assert float(loss) == pytest.approx(2 * 0.6931, abs=1e-3)
    certain = ElasticOutput(torch.tensor([[20.0, 0.0]]))
    assert float(SmoothedLabels(0.0).loss(certain, None, one_row())) == pytest.approx(0.0, abs=1e-3)
    assert float(SmoothedLabels().loss(certain, None, one_row())) == pytest.approx(1.0, abs=1e-3)


def check_sorting(phase: OfaPhase) -> None:
    """W_out = [[1, -2, 0], [3, 0, -5]] has column sums 4, 2, 5; the order is 2, 0, 1."""
    model = make_pair()[1]
    batch = make_batch()
    before = model(batch).logits
    sort_units(model, phase)
    assert torch.allclose(model(batch).logits, before, atol=1e-6)
    norms = measure_norms(model)
    for scores in norms.neurons:
        assert torch.equal(scores, scores.sort(descending=True).values)


def test_ofa_sorts_units_by_the_weights_that_read_them() -> None:
    ranks = rank_inside_bands(torch.tensor([4.0, 2.0, 5.0]), (3,))
    assert ranks.argsort(descending=True).tolist() == [2, 0, 1]
    # Neuron 2 may not leave the last band.
    ranks = rank_inside_bands(torch.tensor([4.0, 2.0, 5.0]), (2, 3))
    assert ranks.argsort(descending=True).tolist() == [0, 1, 2]
    check_sorting(OfaPhase("ffn", SearchSpace(3, (3,), (4,), (32, 64))))
    # The mutant is a phase that sorts nothing.
    with pytest.raises(AssertionError):
        check_sorting(OfaPhase("depth", SearchSpace(3, (2, 3), (4,), (64,))))


def test_ofa_s_predictor_learns_scores_and_leads_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    archs = [SPACE.sample_uniform(rng) for _ in range(320)]
    predictor = AccuracyPredictor(SPACE, 0, width=64)
    predictor.fit(archs[:280], [-loss_of(a) for a in archs[:280]])
    predicted = predictor.predict(archs[280:])
    truth = np.array([-loss_of(a) for a in archs[280:]])
    assert np.corrcoef(predicted, truth)[0, 1] > 0.7

    # Fewer steps than 400 lead the search, too.
    monkeypatch.setattr(predictor_search, "TRAINING_STEPS", 100)
    searcher = PredictorSearch(SPACE, HALF, 0, samples=60, population=20, rounds=10)
    scored = run_search(searcher, 10, lambda arch: -loss_of(arch))
    assert searcher.num_predictions == 20 + 10 * 20
    finalists = [arch for arch in scored if arch not in searcher._samples]
    assert all(HALF.is_met_by(arch) for arch in finalists)
    random = [a for a in searcher._samples if HALF.is_met_by(a)]
    assert min(map(loss_of, finalists)) < np.mean([loss_of(a) for a in random])


# DynaBERT.


def test_dynabert_has_twelve_networks_and_every_other_layer() -> None:
    networks = list_networks(SPACE, [1.0, 0.75, 0.5, 0.25], [1.0, 0.75, 0.5])
    assert len(networks) == 12
    assert networks[0] == SPACE.largest()
    assert networks[4].layer_indices == (0, 1, 2, 4, 5, 6, 8, 9, 10)
    assert networks[8].layer_indices == (0, 2, 4, 6, 8, 10)
    assert networks[1].heads[0] == 9
    assert networks[1].ffn[0] == 2304
    assert [j for _, j in matched_states(range(9), 12)] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 12]
    assert [j for _, j in matched_states(range(12), 12)] == list(range(13))


def check_dynabert(objective: Objective) -> None:
    """Neither stage reads a label, and both read the teacher's states."""
    model, teacher = make_pair()[1], make_pair(1)[1]
    losses = []
    for label in (0, 1):
        batch = one_row(label)
        target = teacher(batch, None, hidden=True)
        losses.append(objective.losses(model(batch, full_width(2), hidden=True), target, batch)[0])
    assert torch.equal(*losses)
    assert objective.needs_hidden


@pytest.mark.parametrize("stage", ["width", "depth"])
def test_dynabert_distils_in_both_stages(stage: str) -> None:
    check_dynabert(stage_objective(stage, 0.1, width_labels=False))
    # The mutant is the released code without augmentation: labels only.
    with pytest.raises(AssertionError):
        check_dynabert(stage_objective("width", 0.1, width_labels=True))
    assert stage_objective("width", 0.1, False).terms[1][0] == 0.1
    assert stage_objective("depth", 0.1, False).terms[1][0] == 1.0
    assert stage_objective("final", 0.1, False) is LABELS_ONLY


# The sandwich rule.


class RepeatedNetwork:
    """A sampler of a space with one network: largest, smallest and random networks are the same."""

    def ask(self, step: int) -> list[Architecture]:
        return [full_width(3)] * 4

    def tell(self, step: int, losses: Any) -> None:
        pass

    def info(self, step: int) -> dict[str, Any]:
        return {}


def sandwich_gradients(step_class: type[SupernetStep]) -> list[Tensor]:
    """Return the gradients of biases and norms of one step of four equal networks."""
    model = make_pair()[1]
    model.set_dropout(0.0)
    updater = SliceUpdater(model, LinearDecay(1e-2, 0.0, (0, 9)), weight_decay=0.0, clip=1e9)
    collected: list[Tensor] = []

    def collect(index: int, used: Any, flat: Tensor) -> None:
        collected.extend(w.gradient.clone() for w in used if w.parameter.ndim == 1)

    updater.apply_slices = collect  # type: ignore[method-assign]
    step = step_class(
        model, RepeatedNetwork(), updater, teacher=None, objective=LABELS_ONLY, average=False,
        precision="fp32", device=torch.device("cpu"),
    )  # fmt: skip
    step(0, make_batch())
    return collected


def label_gradients() -> list[Tensor]:
    """Return the same gradients of plain fine-tuning."""
    model = make_pair()[1]
    LABELS_ONLY.losses(model(make_batch(), full_width(3)), None, make_batch())[0].backward()
    return [p.grad for p in model.parameters() if p.grad is not None and p.ndim == 1]


def check_sandwich(step_class: type[SupernetStep]) -> None:
    """With one network, the gradient is that of the labels: equal outputs have no gradient of KL."""
    own = torch.cat(sandwich_gradients(step_class)).sort().values
    plain = torch.cat(label_gradients()).sort().values
    assert torch.allclose(own, plain, atol=1e-5)


def test_sandwich_teaches_small_networks_with_the_largest() -> None:
    check_sandwich(SandwichStep)
    # The mutant trains all networks on the labels.
    with pytest.raises(AssertionError):
        check_sandwich(SupernetStep)


def test_every_sandwich_has_the_largest_and_the_smallest_network() -> None:
    sampler = SandwichSampler(TINY, 4, 0)
    for step in range(20):
        archs = sampler.ask(step)
        assert len(archs) == 4
        assert archs[:2] == [TINY.largest(), TINY.smallest()]


def test_the_coarse_grid_has_48_networks_and_comes_first() -> None:
    assert len(equal_layers(SPACE)) == 48
    searcher = CoarseToFine(SPACE, HALF, 0)
    grid = {arch for arch in equal_layers(SPACE) if HALF.is_met_by(arch)}
    archs = searcher.ask(1000)
    assert set(archs) == grid
    # A short search scores the networks near the limit.
    costs = [HALF.cost(arch) for arch in archs]
    assert costs == sorted(costs, reverse=True)
    searcher.tell(archs, [-loss_of(a) for a in archs], [loss_of(a) for a in archs])
    children = searcher.ask(8)
    assert all(HALF.is_met_by(child) for child in children)
    assert not grid & set(children)

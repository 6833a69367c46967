"""The wired super-networks: a few steps of their own tasks, and mutants of the wiring that must fail.

The golden tests next to this file test the parts. These show that the method uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.methods import dynabert, elastic_method, hat, ofa, supernet
from raycomp.methods.context import RunContext
from raycomp.methods.dynabert import Dynabert, DynabertTask
from raycomp.methods.dynabert_stages import list_networks, stage_objective
from raycomp.methods.hat import Hat
from raycomp.methods.ofa import Ofa
from raycomp.methods.sandwich import Sandwich, SandwichTask
from raycomp.methods.supernet import SupernetTask
from raycomp.search.space import SearchSpace
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.testing import local_run
from raycomp.testing.local_run import LocalRun
from raycomp.training.supernet_step import SupernetStep
from tests.unit.encoder.test_elastic import make_batch
from tests.unit.methods.golden import set_limit

Weights = dict[str, Tensor]
Make = Callable[..., RunContext]


@pytest.fixture
def train(make: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[LocalRun, Weights]]:
    """Return a function that trains a super-network, with the labels or with their opposites."""
    collate = local_run.collate

    def flipped(*arguments: Any, **options: Any) -> Any:
        batch = collate(*arguments, **options)
        return replace(batch, labels=1 - batch.labels)

    def train_one(method: Any, *, flip: bool = False, **settings: Any) -> tuple[LocalRun, Weights]:
        run = LocalRun(make(method.name, **settings))
        with monkeypatch.context() as patch:
            if flip:
                patch.setattr(local_run, "collate", flipped)
            method.train(run)
        return run, load_tensors(run.context.files.supernet_network)

    return train_one


def are_equal(first: Weights, second: Weights) -> bool:
    return all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def with_other_teacher(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let super-networks learn from another network than the fine-tuned teacher."""

    def teacher_path(task: Any) -> Path:
        torch.manual_seed(1)
        weights = load_tensors(task.context.layout.teacher_network)
        for key, tensor in weights.items():
            weights[key] = tensor + 0.5 * torch.randn(tensor.shape)
        save_tensors(path, weights)
        return path

    monkeypatch.setattr(SupernetTask, "teacher_path", teacher_path)


def labels_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of training plans whose plans have no distillation."""
    return lambda *arguments, **options: function(*arguments, **options) | {"distill": "none"}


# HAT.


def check_hat(train: Any, patch: pytest.MonkeyPatch, path: Path) -> None:
    """HAT's super-network reads the labels and no teacher."""
    settings = {"epochs": 0.6, "population": 4, "parents": 2, "mutations": 1, "generations": 1}
    run, own = train(Hat(), **settings)
    with_other_teacher(patch, path)
    assert are_equal(own, train(Hat(), **settings)[1])
    assert not are_equal(own, train(Hat(), flip=True, **settings)[1])
    # One step: nothing outside the drawn slice has changed.
    (arch,) = run.last_task.step.sampler.ask(0)
    start = load_tensors(run.context.files.supernet_start)
    for i in range(3):
        width = arch.ffn[i] if i < arch.depth else 0
        key = f"layers.{i}.up.weight"
        assert torch.equal(own[key][width:], start[key][width:])
    assert not are_equal(own, start)


def test_hat_learns_from_labels_and_from_no_teacher(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        check_hat(train, patch, tmp_path / "other.safetensors")
    plan = hat.plan_one_phase
    monkeypatch.setattr(hat, "plan_one_phase", lambda *a, **k: plan(*a, **k) | {"distill": "hidden"})
    with pytest.raises(AssertionError):
        check_hat(train, monkeypatch, tmp_path / "other.safetensors")


def test_hat_deploys_the_smallest_loss(make: Make) -> None:
    settings = Hat().search_settings(make("hat"))
    assert (settings.choose_by, settings.smoothing, settings.min_use) == ("loss", 0.0, 0.0)
    assert Hat().search_settings(make("hat", choose_by="score")).choose_by == "score"
    for method in (Ofa(), Sandwich()):
        assert method.search_settings(make(method.name)).choose_by == "score"


# OFA.

OFA = {"epochs": 0.5, "predictor_samples": 4}


def check_ofa_objective(train: Any, patch: pytest.MonkeyPatch, path: Path) -> None:
    """OFA's super-network reads both the labels and the teacher."""
    own = train(Ofa(), **OFA)[1]
    with_other_teacher(patch, path)
    other = train(Ofa(), **OFA)[1]
    assert not are_equal(own, other)
    assert not are_equal(other, train(Ofa(), flip=True, **OFA)[1])


def test_ofa_learns_from_labels_and_teacher(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        check_ofa_objective(train, patch, tmp_path / "other.safetensors")
    monkeypatch.setattr(Ofa, "training_plan", labels_only(Ofa.training_plan))
    with pytest.raises(AssertionError):
        check_ofa_objective(train, monkeypatch, tmp_path / "other.safetensors")


def check_ofa_order(train: Any, patch: pytest.MonkeyPatch) -> None:
    """Without a learning rate, training changes the order of the neurons and nothing else."""
    patch.setattr(supernet, "choose_learning_rate", lambda rate, width: 0.0)
    run, own = train(Ofa(), **OFA)
    start = load_tensors(run.context.files.supernet_start)
    biases, before = own["layers.0.up.bias"], start["layers.0.up.bias"]
    assert torch.equal(biases.sort().values, before.sort().values)
    assert not torch.equal(biases, before)


def test_ofa_sorts_units_at_the_start_of_a_phase(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_ofa_order(train, monkeypatch)
    monkeypatch.setattr(ofa, "sort_units", lambda model, phase: None)
    with pytest.raises(AssertionError):
        check_ofa_order(train, monkeypatch)


# The sandwich rule.


def check_sandwich(train: Any) -> None:
    """In the step that the method trains with, labels reach the largest network and no other."""
    run, _ = train(Sandwich(), epochs=0.5)
    step = run.last_task.step
    assert not step.average
    batch = make_batch()
    other = replace(batch, labels=1 - batch.labels)
    outputs = [step.model(batch, arch) for arch in step.sampler.ask(0)]
    for position, output in enumerate(outputs):
        losses = [step.slice_losses(position, output, None, rows)[0] for rows in (batch, other)]
        assert torch.equal(*losses) == (position > 0)


def test_labels_do_not_reach_the_small_networks_of_a_sandwich(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sandwich(train)
    monkeypatch.setattr(SandwichTask, "step_class", SupernetStep)
    with pytest.raises(AssertionError):
        check_sandwich(train)


# DynaBERT.

WIDTHS = {"epochs": 0.5, "batch_size": 16, "learning_rate": 1e-3, "widths": [1.0, 0.5], "depths": [1.0]}


class TrainedDynabert(Dynabert):
    """DynaBERT with the training alone."""

    def train(self, run: Any) -> None:
        self._train(run)


def check_dynabert(train: Any) -> None:
    """No label is read, and the width stage's full network teaches the depth stage."""
    run, own = train(TrainedDynabert(), **WIDTHS)
    assert run.trained == ["dynabert-stage.width", "dynabert-stage.depth"]
    assert are_equal(own, train(TrainedDynabert(), flip=True, **WIDTHS)[1])
    batch = make_batch()
    taught_by = run.context.network(run.context.files.student("width").network).eval()
    with torch.no_grad():
        target = run.last_task.step.teacher(batch)
        assert torch.allclose(target.logits, taught_by(batch).logits, atol=1e-6)
    assert target.hidden is not None
    assert not run.last_task.step.average


@pytest.mark.parametrize("mutant", ["", "labels", "teacher", "released"])
def test_dynabert_reads_no_label_and_teaches_itself(
    mutant: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mutant:
        check_dynabert(train)
        return
    if mutant == "labels":
        # The plan has no objective of its own.
        monkeypatch.setattr(DynabertTask, "build", SupernetTask.build)
    elif mutant == "teacher":
        monkeypatch.setattr(DynabertTask, "teacher_path", SupernetTask.teacher_path)
    else:
        released = lambda stage, weight, labels: stage_objective(stage, weight, True)  # noqa: E731
        monkeypatch.setattr(dynabert, "stage_objective", released)
    with pytest.raises(AssertionError):
        check_dynabert(train)


@pytest.mark.parametrize(
    ("hidden", "layers", "shares"),
    [(768, 12, [0.750163, 0.500325, 0.250488]), (384, 6, [0.750325, 0.500649, 0.250974])],
)
def test_a_part_of_the_width_has_more_than_its_part_of_the_encoder(
    hidden: int, layers: int, shares: list[float]
) -> None:
    """BERT-base and MiniLM-L6: LayerNorms and two biases of a layer keep the whole width."""
    shape = EncoderShape(
        hidden_size=hidden, embedding_size=hidden, head_size=hidden // 12, layer_heads=(12,) * layers,
        layer_ffn=(4 * hidden,) * layers, vocab_size=30522, max_position_embeddings=512,
        type_vocab_size=2, num_labels=2,
    )  # fmt: skip
    costs = CostModel(shape, 128)
    space = SearchSpace(layers, (layers,), (12,), (4 * hidden,))
    full, *narrow = (
        float(costs.cost("encoder_params", arch))
        for arch in list_networks(space, [1.0, 0.75, 0.5, 0.25], [1.0])
    )
    assert [cost / full for cost in narrow] == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_a_width_is_within_a_budget_up_to_the_tolerance(tolerance: float, make: Make) -> None:
    context = make("dynabert", **WIDTHS | {"tolerance": tolerance})
    half = Dynabert().least_cost(context, "encoder_params") * (1 + tolerance)
    # The LayerNorms of the tiny layers are a larger part than those of BERT-base.
    set_limit(context, int(half / 1.01))
    (deployable,) = Dynabert().compress(LocalRun(context))
    assert (deployable.build is None) == (tolerance == 0.0)
    if tolerance == 0.0:
        assert f"Nearest feasible limit: {half:,.0f}" in deployable.reason
    else:
        assert deployable.tolerance == tolerance
        assert "more than its budget allows" in deployable.description


@pytest.mark.parametrize("heal", [False, True])
def test_dynabert_is_healed_where_its_section_says_so(heal: bool, make: Make) -> None:
    job = {"heal": {"steps": 2, "rounds": 1, "learning_rate": 1e-3}}
    context = make("dynabert", job, **WIDTHS | {"heal": heal})
    write_json(context.layout.teacher_score, {"selection": {"accuracy": 1.0}})
    run = LocalRun(context)
    (deployable,) = Dynabert().compress(run)
    assert (deployable.healing is not None) == heal
    assert any(name.startswith("dynabert-heal") for name in run.trained) == heal
    assert ("heal" in Dynabert().summary(run)) == heal
    assert ("heal" in Dynabert().plan(context)) == heal
    assert context.job.identity() != make("dynabert", job, **WIDTHS).job.identity() or not heal
    # Without it, [heal] does not matter.
    longer = make("dynabert", {"heal": {"steps": 3}}, **WIDTHS | {"heal": heal})
    assert (longer.job.identity() == context.job.identity()) == (not heal)


def test_the_plan_of_one_phase_is_the_one_that_hat_changes() -> None:
    assert hat.plan_one_phase is elastic_method.plan_one_phase

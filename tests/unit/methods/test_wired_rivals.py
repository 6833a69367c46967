"""The wired methods: a few steps of each one's own tasks, and mutants of the wiring that must fail.

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

from raycomp.encoder.interface import ElasticOutput
from raycomp.methods import dynabert, elastic_method, hat, kwon, ofa, supernet
from raycomp.methods.context import RunContext
from raycomp.methods.dynabert import Dynabert, DynabertTask
from raycomp.methods.dynabert_stages import stage_objective
from raycomp.methods.hat import Hat
from raycomp.methods.kwon import KwonSettings, prune_for_budget
from raycomp.methods.ofa import Ofa
from raycomp.methods.pkd import Pkd
from raycomp.methods.sandwich import Sandwich, SandwichTask
from raycomp.methods.supernet import SupernetTask
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.testing import local_run
from raycomp.testing.local_run import CPU, LocalRun
from raycomp.training.hints import Hidden, Objective
from raycomp.training.supernet_step import SupernetStep
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.methods.golden import full_width, make_context

Weights = dict[str, Tensor]
Make = Callable[..., RunContext]


@pytest.fixture
def make(tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path) -> Make:
    """Return a function from a method and its settings to a context with a teacher and 2 batches."""
    count = iter(range(100))
    tiny_job["task"]["limit"] = 32

    def make_one(method: str, job: dict[str, Any] | None = None, **settings: Any) -> RunContext:
        folder = tmp_path / str(next(count))
        return make_context({**tiny_job, **(job or {})}, folder, method, tuned_model, **settings)

    return make_one


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


def set_limit(context: RunContext, limit: int | str) -> None:
    """Give the only budget of a context another limit."""
    budget = context.job.budget[0].model_copy(update={"encoder_params": limit})
    context.job = context.job.model_copy(update={"budget": [budget]})


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


# Kwon et al.


def pruned_error(context: RunContext) -> float:
    """Return how far the network that Kwon writes is from the teacher, on the rows that it reads."""
    set_limit(context, "0.4x")
    written: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kwon, "write_pruned", lambda *arguments: written.extend(arguments))
        prune_for_budget(context, "half")
    model, heads, neurons = written[2:]
    masks = kwon.Masks([h.float() for h in heads], [n.float() for n in neurons])
    teacher = context.teacher().eval()
    errors = []
    for batch in kwon._read_batches(context, context.job.settings(KwonSettings), CPU):
        with torch.no_grad():
            own = kwon.run_masked(model, batch, masks).hidden
            full = teacher(batch, None, hidden=True).hidden
        assert own is not None
        assert full is not None
        errors.append(float((own[-1] - full[-1])[:, 0].square().mean()))
    return sum(errors)


def check_tuning(make: Make) -> None:
    """The tuned network is nearer to the teacher than the one that is only pruned."""
    tuned, plain = (pruned_error(make("kwon", samples=32, tune=tune)) for tune in (True, False))
    assert tuned < 0.9 * plain


def test_kwon_tunes_the_pruned_network(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tuning(make)
    monkeypatch.setattr(kwon, "tune_masks", lambda *arguments: None)
    with pytest.raises(AssertionError):
        check_tuning(make)


def check_masks(context: RunContext, patch: pytest.MonkeyPatch) -> None:
    """The gradients of the pruned neurons cancel more than those of the least important ones."""
    torch.manual_seed(0)
    grads = ([torch.randn(4, 4) for _ in range(3)], [torch.randn(4, 64) for _ in range(3)])
    written: list[Any] = []
    patch.setattr(kwon, "mask_gradients", lambda model, batches: grads)
    patch.setattr(kwon, "write_pruned", lambda *arguments: written.extend(arguments))
    patch.setattr(kwon, "trim_to_limit", lambda *arguments: None)
    set_limit(context, "0.4x")
    prune_for_budget(context, "half")
    for mask, gradients in zip(written[-1], grads[1], strict=True):
        pruned = ~mask
        least = gradients.square().sum(0).argsort()[: int(pruned.sum())]
        assert 0 < int(pruned.sum()) < 64
        assert gradients[:, pruned].sum(1).norm() < 0.5 * gradients[:, least].sum(1).norm()


def test_kwon_rearranges_the_masks_that_it_writes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    check_masks(make("kwon", tune=False), monkeypatch)
    monkeypatch.setattr(kwon, "rearrange", lambda mask, gradients: mask)
    with pytest.raises(AssertionError):
        check_masks(make("kwon", tune=False), monkeypatch)


# BERT-PKD.


def check_patience(objective: Objective) -> None:
    """The direction of inner [CLS] states matters; their length, other tokens and the last do not."""
    batch = make_batch()
    teacher = make_pair(1)[1](batch, None, hidden=True)
    student = make_pair()[1](batch, full_width(2), hidden=True)
    assert student.hidden is not None
    embedded, inner, outer = student.hidden

    def loss(*hidden: Tensor) -> Tensor:
        output = ElasticOutput(student.logits, hidden, student.layers)
        return objective.losses(output, teacher, batch)[0]

    own = loss(embedded, inner, outer)
    turned = inner.clone()
    turned[:, 0] = turned[:, 0].flip(-1)
    assert not torch.isclose(loss(embedded, turned, outer), own)
    others = inner.clone()
    others[:, 1:] += 1.0
    for states in ((embedded, 3 * inner, outer), (embedded, others, outer), (embedded, inner, -outer)):
        assert torch.isclose(loss(*states), own)


def test_pkd_compares_the_directions_of_inner_cls_states(make: Make) -> None:
    objective = Pkd().objective(make("pkd"))
    check_patience(objective)
    *others, (weight, states) = objective.terms
    assert isinstance(states, Hidden)
    mutants: list[dict[str, Any]] = [{"normalise": False}, {"on": "tokens"}, {"map": "uniform"}]
    for changes in mutants:
        mutant = Objective((*others, (weight, replace(states, **changes))))
        with pytest.raises(AssertionError):
            check_patience(mutant)
    with pytest.raises(AssertionError):
        check_patience(Objective(tuple(others)))


def test_the_plan_of_one_phase_is_the_one_that_hat_changes() -> None:
    assert hat.plan_one_phase is elastic_method.plan_one_phase

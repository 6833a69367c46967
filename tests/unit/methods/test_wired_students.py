"""The wired methods that prune or distil: their own tasks, and mutants of the wiring that must fail.

The golden tests of these methods test the parts. These show that the method uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raycomp.encoder.interface import ElasticOutput
from raycomp.methods import kwon
from raycomp.methods.cofi import Cofi
from raycomp.methods.cofi_task import layer_loss
from raycomp.methods.context import RunContext
from raycomp.methods.kwon import KwonSettings, prune_for_budget
from raycomp.methods.layerdrop import Layerdrop
from raycomp.methods.pkd import Pkd
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.testing.local_run import CPU, LocalRun
from raycomp.training.hints import Hidden, Logits, Objective
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.methods.golden import full_width, set_limit

Make = Callable[..., RunContext]


# CoFi.


def check_cofi(context: RunContext) -> None:
    """The tuning sums over four teacher layers through the trained map, and embeddings are frozen."""
    Cofi().compress(run := LocalRun(context))
    task = run.last_task
    (step,) = task.step._steps
    (_, predictions), (_, states) = step.objective.terms
    assert isinstance(predictions, Logits)
    batch = make_batch()
    project = getattr(task.model, "project", torch.nn.Identity())
    with torch.no_grad():
        own, target = task.model(batch, None, hidden=True), context.teacher().eval()(batch, hidden=True)
        expected = layer_loss(own.hidden, target.hidden, project, batch)
        assert torch.isclose(states.loss(own, target, batch), expected)
    start = load_tensors(context.layout.teacher_network)
    student = load_tensors(context.files.student("half").network)
    for key, tensor in student.items():
        if key.startswith("embeddings."):
            assert torch.equal(tensor, start[key]), key
    assert not torch.equal(project.weight, torch.eye(32))


def test_cofi_s_tuning_has_the_distillation_of_its_pruning(make: Make) -> None:
    settings = {"epochs": 1.0, "prune_epochs": 1.0, "target_epochs": 1.0, "learning_rate": 1e-3}
    check_cofi(make("cofi", **settings))
    with pytest.raises(AssertionError):
        check_cofi(make("cofi", match="uniform", **settings))


# LayerDrop.


def test_layerdrop_starts_from_the_pretrained_network(make: Make) -> None:
    for changes, is_teacher in (({}, False), ({"start": "teacher"}, True)):
        context = make("layerdrop", **changes)
        weights = load_tensors(context.layout.teacher_network)
        weights["layers.0.up.bias"] = weights["layers.0.up.bias"] + 1.0
        save_tensors(context.layout.teacher_network, weights)
        started = Layerdrop().start_weights(context, full_width(2))
        assert torch.equal(started["layers.0.up.bias"], weights["layers.0.up.bias"]) == is_teacher


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

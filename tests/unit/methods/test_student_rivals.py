"""Golden facts of the methods that train one student per budget, each with a mutant that must fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.encoder.interface import AttentionStates, ElasticOutput
from raycomp.methods.distilbert import Distilbert
from raycomp.methods.layerdrop import Layerdrop, draw_layers
from raycomp.methods.minilm import Minilm
from raycomp.methods.pd import Pd
from raycomp.methods.theseus import ModulePlan, ReplacementSchedule
from raycomp.methods.tinybert import intermediate_objective
from raycomp.storage.tensors import load_tensors
from raycomp.training.hints import DISTILLATION, Hidden, Objective
from raycomp.training.layer_maps import every_other_layers, spread_layers, uniform
from raycomp.training.phases import PhaseSchedule, TrainingPhase
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.methods.golden import compress, full_width, make_context, make_encoder
from tests.unit.training.test_hints import STUDENT, TEACHER, one_row, states


def test_layers_of_students_are_those_of_the_released_code() -> None:
    assert every_other_layers(12, 6) == (0, 2, 4, 6, 8, 10)
    assert every_other_layers(12, 9) == (0, 1, 2, 4, 5, 6, 8, 9, 10)
    assert every_other_layers(6, 4) == (0, 1, 3, 4)
    assert spread_layers(12, 6) == (0, 2, 4, 7, 9, 11)
    assert spread_layers(12, 9) == (0, 1, 3, 4, 6, 7, 8, 10, 11)
    assert spread_layers(6, 3) == (0, 2, 5)
    assert spread_layers(6, 1) == (0,)


def test_each_phase_has_its_own_learning_rate() -> None:
    schedule = PhaseSchedule(
        [TrainingPhase(4, 1e-3, decay="constant"), TrainingPhase(10, 1e-2, warmup=0.2)]
    )
    assert [schedule(step) for step in range(4)] == [1e-3] * 4
    assert schedule(4) == pytest.approx(5e-3)
    assert schedule(5) == pytest.approx(1e-2)
    assert schedule(13) == pytest.approx(1e-2 / 8)
    assert schedule.starts == [0, 4, 14]


# BERT-of-Theseus.


def test_a_path_of_theseus_runs_each_module_of_either_network() -> None:
    """r = (1, 0, 1, 0, 0, 1) on 12 layers runs scc0, prd2, prd3, scc2, prd6 to prd9, scc5."""
    plan = ModulePlan(12, 6)
    order = plan.order()
    path = plan.path([True, False, True, False, False, True])
    assert [order[layer] for layer in path] == [
        (True, 0), (False, 2), (False, 3), (True, 2), (False, 6), (False, 7), (False, 8), (False, 9),
        (True, 5),
    ]  # fmt: skip
    assert [order[layer] for layer in plan.path([True] * 6)] == [(True, i) for i in range(6)]
    assert ModulePlan(12, 9).num_modules == 3
    assert ModulePlan(6, 4).num_modules == 2


def test_the_replacement_rate_reaches_one_at_its_step() -> None:
    """b = .3 and k = .0006: p = 1 first at update 1,167."""
    schedule = ReplacementSchedule(0.3, 0.7 / 0.0006)
    assert schedule.rate(0) == pytest.approx(0.3)
    assert schedule.rate(1166) < 1.0
    assert schedule.rate(1167) == 1.0
    constant = replace(schedule, is_constant=True)
    assert constant.rate(1166) == 0.3
    assert constant.rate(1167) == 1.0


def check_theseus(context: Any) -> None:
    compress(context)
    teacher = load_tensors(context.layout.teacher_network)
    student = load_tensors(context.files.student("half").network)
    for key, tensor in student.items():
        is_frozen = not key.startswith("layers.")
        assert torch.equal(tensor, teacher[key]) == is_frozen, key


def test_theseus_trains_the_student_s_layers_and_nothing_else(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 0.5, "learning_rate": 1e-3}
    check_theseus(make_context(tiny_job, tmp_path / "a", "theseus", tuned_model, **settings))
    # The mutant never replaces a module: the student's layers stay as they were.
    monkeypatch.setattr(ReplacementSchedule, "rate", lambda self, step: 0.0)
    with pytest.raises(AssertionError, match=r"layers\."):
        check_theseus(make_context(tiny_job, tmp_path / "b", "theseus", tuned_model, **settings))


def test_gradients_pass_through_the_teacher_s_frozen_layers() -> None:
    model = make_encoder(4)
    model.requires_grad_(False)
    model.layers[0].requires_grad_(True)
    output = model(make_batch(), full_width(4))
    output.logits.sum().backward()
    assert model.layers[0].up.weight.grad is not None
    assert model.layers[3].up.weight.grad is None


# MiniLM.


def check_minilm(objective: Objective) -> None:
    student, teacher = make_pair()[1], make_pair(1)[1]
    batch = make_batch()
    reads = {"hidden": objective.needs_hidden, "attention": objective.needs_attention}
    with torch.no_grad():
        target = teacher(batch, None, **reads)
    objective.losses(student(batch, None, **reads), target, batch)[0].backward()
    last = student.layers[-1]
    assert last.query.weight.grad is not None
    for module in (last.output, last.up, last.down, student.pooler, student.classifier):
        assert module.weight.grad is None


@pytest.mark.parametrize("settings", [{}, {"relations": "v2", "relation_heads": 8}])
def test_minilm_s_first_phase_trains_up_to_the_last_attention(
    settings: dict[str, Any], tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, "minilm", **settings)
    check_minilm(Minilm().relation_objective(context))
    with pytest.raises(AssertionError):
        check_minilm(DISTILLATION["hidden"])


def test_minilm_uses_the_labels_in_its_second_phase(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, "minilm", relation_epochs=2.0, epochs=1.0)
    first, second = Minilm().phases(context, full_width(2), 10)
    assert (first.steps, second.steps) == (20, 10)
    assert first.objective.needs_attention
    assert not second.objective.needs_teacher


# TinyBERT.


def attention_of(query: float) -> AttentionStates:
    ones = torch.ones(1, 1, 2, 1)
    return AttentionStates(query * ones, ones, ones)


def check_tinybert(objective: Objective) -> None:
    """Scores 2 against 1 in one layer: 1. States (1, 1) against (0, 0) after it: 1. Embeddings: 0."""
    flat = [[0.0, 0.0], [0.0, 0.0]]
    ones = [[1.0, 1.0], [1.0, 1.0]]
    student = ElasticOutput(STUDENT.logits, states(flat, ones), (0,), (attention_of(2.0),))
    teacher = ElasticOutput(
        TEACHER.logits, states(flat, ones, flat), (0, 1), (attention_of(5.0), attention_of(1.0))
    )
    loss, _ = objective.losses(student, teacher, one_row())
    assert float(loss.detach()) == pytest.approx(2.0)


def test_tinybert_matches_scores_and_states_of_every_second_layer() -> None:
    assert [j - 1 for i, j in uniform(range(6), 12) if i] == [1, 3, 5, 7, 9, 11]
    check_tinybert(intermediate_objective(None))
    # The mutant has hidden states only.
    with pytest.raises(AssertionError):
        check_tinybert(Objective(((1.0, Hidden(over_layers="sum")),)))


def test_tinybert_s_linear_map_is_trained_with_the_student(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 0.2, "intermediate_epochs": 0.2, "augment": False}
    context = make_context(tiny_job, tmp_path, "tinybert", tuned_model, **settings)
    run = compress(context)
    task = run.last_task
    assert task is not None
    assert not torch.equal(task.model.project.weight, torch.eye(32))
    student = load_tensors(context.files.student("half").network)
    assert set(student) == set(make_encoder(2).state_dict())


# DistilBERT.


def check_distilbert(objective: Objective) -> None:
    """Equal states: 5 x .4438 + 2 x .6931 = 3.605. Orthogonal states add 1."""
    equal = ElasticOutput(STUDENT.logits, states([[1.0, 0.0], [1.0, 0.0]]))
    target = ElasticOutput(TEACHER.logits, states([[9.0, 9.0], [9.0, 9.0]], [[2.0, 0.0], [2.0, 0.0]]))
    turned = ElasticOutput(STUDENT.logits, states([[0.0, 1.0], [0.0, 3.0]]))
    loss, _ = objective.losses(equal, target, one_row())
    assert float(loss) == pytest.approx(3.605, abs=1e-3)
    loss, _ = objective.losses(turned, target, one_row())
    assert float(loss) == pytest.approx(4.605, abs=1e-3)


def test_distilbert_s_objective_has_the_value_of_the_fixture(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, "distilbert")
    check_distilbert(Distilbert().objective(context))
    mutant = make_context(tiny_job, tmp_path, "distilbert", alpha_cosine=0.0)
    with pytest.raises(AssertionError):
        check_distilbert(Distilbert().objective(mutant))


# Pre-trained Distillation.


def check_pd(objective: Objective) -> None:
    losses = [objective.losses(STUDENT, TEACHER, one_row(label))[0] for label in (0, 1)]
    assert torch.equal(*losses)
    assert float(losses[0]) == pytest.approx(0.6931, abs=1e-4)
    own, _ = objective.losses(TEACHER, TEACHER, one_row())
    assert float(own) == pytest.approx(0.3653, abs=1e-4)


def test_pd_reads_no_label(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, "pd")
    check_pd(Pd().objective(context))
    assert len(Pd().phases(context, full_width(2), 10)) == 1
    with pytest.raises(AssertionError):
        check_pd(DISTILLATION["logits"])


# LayerDrop.


def check_layerdrop(rate: float) -> None:
    """p = .2 on 12 layers: 9.6 layers run on average, and all of them with probability .0687."""
    rng = np.random.default_rng(0)
    depths = np.array([draw_layers(full_width(12), rate, rng).depth for _ in range(4000)])
    assert depths.mean() == pytest.approx(9.6, abs=0.1)
    assert (depths == 12).mean() == pytest.approx(0.0687, abs=0.015)


class FixedDraws:
    """A generator whose uniform numbers are given."""

    def random(self, count: int) -> np.ndarray:
        return np.linspace(0.1, 0.9, count)


def test_layerdrop_leaves_layers_out_with_its_rate() -> None:
    check_layerdrop(0.2)
    with pytest.raises(AssertionError):
        check_layerdrop(0.0)
    assert draw_layers(full_width(3), 0.2, FixedDraws()).layer_indices == (1, 2)  # type: ignore[arg-type]


def test_layerdrop_prunes_every_other_layer_and_trains_the_rest(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, "layerdrop")
    dropping, pruned = Layerdrop().phases(context, full_width(2), 10)
    assert dropping.arch_at is not None
    assert pruned.arch_at is not None
    assert {dropping.arch_at(step).depth for step in range(30)} == {1, 2, 3}
    assert pruned.arch_at(0).layer_indices == (0, 1)
    assert dropping.arch_at(7) == dropping.arch_at(7)

"""Each hint against its formula by hand, and the objectives of `train.distill` against the old code's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.interface import ElasticOutput
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import (
    DISTILLATION,
    LABELS_ONLY,
    Embeddings,
    Hidden,
    Hint,
    Labels,
    Logits,
    Objective,
)
from raycomp.training.layer_maps import last, layer_pairs, same, skip, uniform
from raycomp.training.optimizers import LinearDecay, Updater
from tests.unit.encoder.test_elastic import make_batch, make_pair

TEACHER = ElasticOutput(torch.tensor([[2.0, 0.0]]))
STUDENT = ElasticOutput(torch.tensor([[0.0, 0.0]]))


def one_row(label: int = 0) -> Batch:
    ids = torch.tensor([[5, 6]])
    return Batch(
        ids, torch.ones(1, 2, dtype=torch.bool), ids * 0, torch.tensor([label]), np.arange(1), 1, 2
    )


def states(*rows: list[list[float]]) -> tuple[Tensor, ...]:
    """Hidden states of one text: each (1, length, hidden)."""
    return tuple(torch.tensor([row]) for row in rows)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Logits(), 0.6931),
        (Logits(divergence="kl"), 0.3278),
        (Logits(temperature=2.0, divergence="kl"), 0.4438),
        (Logits(temperature=10.0, divergence="kl"), 0.4975),
        (Logits(temperature=10.0, divergence="kl", per_class=True), 0.2488),
        (Logits(per_class=True), 0.3466),
        (Labels(), math.log(2)),
    ],
)
def test_logits_have_the_values_of_the_fixture(hint: Hint, expected: float) -> None:
    assert float(hint.loss(STUDENT, TEACHER, one_row())) == pytest.approx(expected, abs=6e-5)


def test_both_divergences_have_the_same_gradients() -> None:
    found = []
    for divergence in ("cross_entropy", "kl"):
        logits = torch.tensor([[0.3, -0.2]], requires_grad=True)
        hint = Logits(temperature=3.0, divergence=divergence)  # type: ignore[arg-type]
        hint.loss(ElasticOutput(logits), TEACHER, one_row()).backward()
        found.append(logits.grad)
    assert torch.equal(*found)  # type: ignore[arg-type]


def test_outputs_of_a_regression_are_matched_by_squared_error() -> None:
    batch = replace(one_row(), labels=torch.tensor([0.5]))
    student, teacher = ElasticOutput(torch.tensor([[1.0]])), ElasticOutput(torch.tensor([[3.0]]))
    for hint in (Logits(), Logits(divergence="kl")):
        assert float(hint.loss(student, teacher, batch)) == pytest.approx(4.0)
    assert float(Labels().loss(student, None, batch)) == pytest.approx(0.25)


def test_patience_of_bert_pkd_by_hand() -> None:
    """Student CLS (3, 4) and teacher CLS (0, 5): (.6 - 0)^2 + (.8 - 1)^2 = .40."""
    far = [9.0, -9.0]
    student = ElasticOutput(STUDENT.logits, states([far, far], [[3.0, 4.0], far], [far, far]), (0, 1))
    teacher = ElasticOutput(
        TEACHER.logits, states([far, far], [far, far], [[0.0, 5.0], far], [far, far], [far, far])
    )
    paper = Hidden(map="skip", on="cls", normalise=True, over_layers="sum", over_features="sum")
    assert float(paper.loss(student, teacher, one_row())) == pytest.approx(0.40)
    released = replace(paper, over_layers="mean", over_features="mean")
    assert float(released.loss(student, teacher, one_row())) == pytest.approx(0.20)
    plain = replace(paper, normalise=False)
    assert float(plain.loss(student, teacher, one_row())) == pytest.approx(10.0)


def test_hidden_states_are_averaged_over_real_tokens_layers_and_features() -> None:
    batch = replace(one_row(), attention_mask=torch.tensor([[True, False]]), total_tokens=1)
    student = ElasticOutput(
        STUDENT.logits, states([[1.0, 3.0], [9.0, 9.0]], [[0.0, 2.0], [9.0, 9.0]]), (0,)
    )
    zeros = [[0.0, 0.0], [0.0, 0.0]]
    teacher = ElasticOutput(TEACHER.logits, states(zeros, zeros))
    assert float(Hidden().loss(student, teacher, batch)) == pytest.approx((5.0 + 2.0) / 2)
    assert float(Hidden(over_layers="sum").loss(student, teacher, batch)) == pytest.approx(7.0)
    assert float(Hidden(over_features="sum").loss(student, teacher, batch)) == pytest.approx(7.0)
    assert float(Embeddings().loss(student, teacher, batch)) == pytest.approx(5.0)


def test_a_narrow_student_is_matched_through_its_projection() -> None:
    student = ElasticOutput(STUDENT.logits, states([[1.0], [2.0]], [[0.0], [1.0]]), (0,))
    teacher = ElasticOutput(TEACHER.logits, states([[2.0, 2.0], [4.0, 4.0]], [[0.0, 0.0], [2.0, 3.0]]))
    project = torch.nn.Linear(1, 2, bias=False)
    torch.nn.init.constant_(project.weight, 2.0)
    loss = Hidden(project=project).loss(student, teacher, one_row())
    assert float(loss.detach()) == pytest.approx(0.5 * 1.0 / 4)
    loss.backward()
    assert project.weight.grad is not None
    assert float(Embeddings(project=project).loss(student, teacher, one_row()).detach()) == 0.0


def test_layer_maps_are_those_of_the_papers() -> None:
    six, nine = tuple(range(6)), tuple(range(9))
    assert [j for _, j in skip(six, 12)] == [2, 4, 6, 8, 10]
    assert [j for _, j in last(six, 12)] == [7, 8, 9, 10, 11]
    assert [j for _, j in uniform(six, 12)] == [0, 2, 4, 6, 8, 10, 12]
    assert [j for _, j in uniform(nine, 12)] == [0, 2, 3, 4, 6, 7, 8, 10, 11, 12]
    assert [j for _, j in uniform((0, 1), 3)] == [0, 2, 3]
    assert same((1, 2, 5), 6) == [(0, 0), (1, 2), (2, 3), (3, 6)]
    assert layer_pairs("skip", six, 12) == skip(six, 12)
    assert layer_pairs(lambda layers, count: [(0, count)], six, 12) == [(0, 12)]
    with pytest.raises(ValueError, match="uniform, skip, last, same"):
        layer_pairs("second", six, 12)
    with pytest.raises(ValueError, match="layer 6"):
        same((0, 6), 6)


def old_objective(
    distill: str, arch: Architecture, own: ElasticOutput, target: ElasticOutput, b: Batch
) -> Tensor:
    """The objective as one function: labels, soft labels, states."""
    loss = F.cross_entropy(own.logits, b.labels, reduction="sum") / b.total
    if distill == "none":
        return loss
    # Without labels, the predictions are compared at temperature 2, and gradients shrink by its square.
    temperature = 1.0
    if distill == "teacher":
        temperature = 2.0
        loss = torch.zeros(())
    soft = torch.softmax(target.logits / temperature, -1)
    entropy = -(soft * torch.log_softmax(own.logits / temperature, -1)).sum() / b.total
    loss = loss + temperature**2 * entropy
    if distill in ("hidden", "teacher"):
        assert own.hidden is not None
        assert target.hidden is not None
        layers = len(target.hidden) - 1
        for i in range(arch.depth + 1):
            j = math.ceil(i * layers / arch.depth)
            error = (own.hidden[i] - target.hidden[j]).square() * b.attention_mask[..., None]
            loss = loss + error.sum() / (b.total_tokens * own.hidden[i].shape[-1]) / (arch.depth + 1)
    return loss


@pytest.mark.parametrize("distill", list(DISTILLATION))
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_objectives_of_train_distill_are_the_old_formulas(distill: str, depth: int) -> None:
    model, teacher = make_pair()[1], make_pair(1)[1]
    batch = make_batch()
    arch = Architecture(depth, (4,) * depth, (32,) * depth)
    objective = DISTILLATION[distill]
    with torch.no_grad():
        target = teacher(batch, None, hidden=True)
    grads = []
    for by_hints in (True, False):
        model.zero_grad()
        output = model(batch, arch, hidden=objective.needs_hidden)
        if by_hints:
            loss, labels = objective.losses(output, target, batch)
            assert float(labels) == pytest.approx(
                float(old_objective("none", arch, output, target, batch).detach())
            )
        else:
            loss = old_objective(distill, arch, output, target, batch)
        loss.backward()
        grads.append(
            [float(loss.detach()), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        )
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6)
    for a, b in zip(grads[0][1:], grads[1][1:], strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_an_objective_knows_what_it_reads_and_refuses_to_do_without() -> None:
    assert not LABELS_ONLY.needs_teacher
    assert DISTILLATION["logits"].needs_teacher
    assert not DISTILLATION["logits"].needs_hidden
    assert DISTILLATION["hidden"].needs_hidden
    with pytest.raises(ValueError, match="did not ask for"):
        Logits().loss(STUDENT, None, one_row())
    with pytest.raises(ValueError, match="did not ask for"):
        Hidden().loss(STUDENT, TEACHER, one_row())
    with pytest.raises(ValueError, match="at least one term"):
        Objective(()).losses(STUDENT, None, one_row())
    model = make_pair()[1]
    updater = Updater(model, LinearDecay(1e-3, 0.1, (0, 20)), weight_decay=0.01, clip=1.0)
    with pytest.raises(ValueError, match="needs a teacher"):
        FinetuneStep(
            model, updater, precision="fp32", device=torch.device("cpu"), objective=DISTILLATION["logits"]
        )


def test_weights_multiply_terms_and_labels_are_reported_without_theirs() -> None:
    both = Objective(((0.25, Labels()), (3.0, Logits())))
    loss, labels = both.losses(STUDENT, TEACHER, one_row())
    assert float(loss) == pytest.approx(3.25 * math.log(2))
    assert float(labels) == pytest.approx(math.log(2))
    loss, labels = Objective(((1.0, Logits()),)).losses(STUDENT, TEACHER, one_row(1))
    assert float(labels) == pytest.approx(math.log(2))


def test_a_student_learns_from_its_teacher_in_finetuning() -> None:
    """With labels and logits of weight 0, the step is plain fine-tuning; with hints it is not."""
    batch, device = make_batch(), torch.device("cpu")
    teacher = make_pair(1)[1]
    arch = Architecture(2, (4, 4), (64, 64))
    weights = []
    for objective in (LABELS_ONLY, DISTILLATION["hidden"]):
        model = make_pair()[1]
        model.set_dropout(0.0)
        updater = Updater(model, LinearDecay(1e-3, 0.1, (0, 20)), weight_decay=0.0, clip=1.0)
        step = FinetuneStep(
            model, updater, precision="fp32", device=device, arch=arch, objective=objective,
            teacher=lambda b: teacher(b, None, hidden=True),
        )  # fmt: skip
        losses = [step(i, batch).loss for i in range(8)]
        assert losses[-1] < losses[0]
        weights.append(model.layers[0].query.weight.detach().clone())
        assert torch.equal(model.layers[2].up.weight, make_pair()[1].layers[2].up.weight)
    assert not torch.equal(*weights)

"""The step of the search and the step of a child."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.claims.adabert_step import one_by_one
from raycomp.data.batches import Batch
from raycomp.methods.adabert.child_step import ChildStep, cosine_rate
from raycomp.methods.adabert.distillation import DistillationLoss
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.step import SEED_STRIDE, SearchStep
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS, Structure
from raycomp.methods.adabert.student import Parent
from raycomp.training.objectives import label_loss, prediction_loss
from raycomp.training.optimizers import Updater
from tests.unit.methods.adabert.builders import (
    CPU,
    DISTILLATION,
    SHAPE,
    ConfidentTeacher,
    make_batch,
    make_search_step,
)


class GradientRecorder:
    """An updater that keeps the gradients of a step and changes no parameter."""

    reduce = None

    def apply(self, step: int, touched: list[torch.Tensor], extra: torch.Tensor) -> None:
        self.gradients = [gradient.clone() for gradient in touched]


def sampled_structure(step: SearchStep, index: int) -> Structure:
    return step.distribution.sample(1.0, step.seed * SEED_STRIDE + index).structure


# Loss, label loss, norm of the parent's gradient, gradient of the depth's logits, and sum of the
# absolute gradients of the operations' logits. They were computed before the step was split into
# functions; step 30 draws two cells of three.
LOSS, LABEL_LOSS = 1.630949854850769, 0.7677490711212158
DEPTH_GRADIENT = [-5.993e-05, -7.710e-05, 1.3698e-04]
DEPTH_GRADIENT_FULL = [-5.993e-05, -8.489e-05, 1.4481e-04]
GOLDEN = {
    ("sampled", "depths"): (1.0121894902125308, DEPTH_GRADIENT, 0.06133208051323891),
    ("sampled", "drawn"): (1.030143003790289, DEPTH_GRADIENT, 0.08792205899953842),
    ("contrast", "depths"): (1.0121894902125308, DEPTH_GRADIENT, 0.07113514095544815),
    ("contrast", "drawn"): (1.030143003790289, DEPTH_GRADIENT, 0.08247905969619751),
    ("full", "depths"): (1.0121894902125308, DEPTH_GRADIENT_FULL, 0.06227653846144676),
    ("full", "drawn"): (1.030143003790289, DEPTH_GRADIENT_FULL, 0.07431906461715698),
}


@pytest.mark.parametrize(("estimator", "supervised_depths"), GOLDEN)
def test_a_search_step_has_its_golden_loss_and_gradients(estimator: str, supervised_depths: str) -> None:
    parent_norm, depth_gradient, operations_sum = GOLDEN[estimator, supervised_depths]
    step = make_search_step(estimator, beta=40.0, supervised_depths=supervised_depths)
    recorder = GradientRecorder()
    step.updater = recorder  # type: ignore[assignment]

    assert sampled_structure(step, 30).layers == 2
    result = step(30, make_batch())

    assert result.loss == pytest.approx(LOSS, rel=1e-5)
    assert result.info["loss"] == pytest.approx(LABEL_LOSS, rel=1e-5)
    weight_gradients = [p.grad for p in step.parent.parameters() if p.grad is not None]
    norm = torch.sqrt(sum(g.double().square().sum() for g in weight_gradients))
    assert float(norm) == pytest.approx(parent_norm, rel=1e-4)
    layers, operations = step.distribution.layers.grad, step.distribution.operations.grad
    assert layers is not None
    assert operations is not None
    assert layers.tolist() == pytest.approx(depth_gradient, rel=1e-2, abs=2e-8)
    assert float(operations.abs().sum()) == pytest.approx(operations_sum, rel=1e-3)
    assert len(recorder.gradients) == len(weight_gradients) + 2


@pytest.mark.parametrize("supervised_depths", ["depths", "drawn"])
@pytest.mark.parametrize("run_depths", [2, 3])
def test_the_depth_surrogate_has_the_value_of_the_loss_and_the_losses_as_gradient(
    supervised_depths: str, run_depths: int
) -> None:
    """S = L + sum_k y_k l_k - l_K: value L, dS/dy_k = l_k, with l_K for depths that did not run."""
    step = make_search_step(supervised_depths=supervised_depths)
    structure = Structure(2, ("skip",) * 9)
    y = torch.tensor([0.0, 1.0, 0.0], requires_grad=True)
    losses = [torch.tensor(v, requires_grad=True) for v in (5.0, 3.0, 4.0)[:run_depths]]
    sample = SimpleNamespace(structure=structure, layers=y)

    surrogate = step._depth_surrogate(sample, losses)  # type: ignore[arg-type]
    surrogate.backward()

    trained_depths = [1, 2] if supervised_depths == "depths" else [2]
    assert float(surrogate.detach()) == pytest.approx(
        np.mean([(5.0, 3.0)[k - 1] for k in trained_depths])
    )
    assert y.grad is not None
    assert y.grad.tolist() == [5.0, 3.0, 4.0 if run_depths == 3 else 3.0]
    for depth, loss in enumerate(losses, 1):
        gradient = 0.0 if loss.grad is None else float(loss.grad)
        assert gradient == pytest.approx(1 / len(trained_depths) if depth in trained_depths else 0.0)


@pytest.mark.parametrize(
    ("supervised_depths", "trained"),
    [("depths", [True, True, True]), ("drawn", [False, False, True])],
)
def test_the_classifier_learns_after_each_cell_or_after_the_last_one(
    supervised_depths: str, trained: list[bool]
) -> None:
    step = make_search_step(supervised_depths=supervised_depths)
    batch = make_batch()
    index = next(i for i in range(99) if sampled_structure(step, i).layers == 3)
    _, logits, probes = step._sampled_forward(index, batch)
    teacher = step.teacher_outputs.rows(batch.index)
    _, objectives = step._depth_objectives(logits, probes, batch, teacher, 3)
    assert [objective.requires_grad for objective in objectives] == trained


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_search_steps_run_in_bf16(estimator: str) -> None:
    """Under bf16 the output of a convolution is bf16, and the output of a skip or a pool may be fp32."""
    step = make_search_step(estimator)
    step.precision = "bf16"
    for i in range(3):
        step(i, make_batch())
    assert all(torch.isfinite(p).all() and p.any() for p in step.distribution.parameters())


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_the_search_learns(estimator: str) -> None:
    step = make_search_step(estimator, total_steps=30, nodes=2, rate=0.05)
    losses = [step(i, make_batch()).info["loss"] for i in range(30)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_during_warmup_the_weights_learn_and_p_alpha_does_not() -> None:
    step = make_search_step("contrast", alpha_warmup_steps=3)
    before = step.parent.unshared_weights()
    for i in range(3):
        step(i, make_batch())
    assert not any(p.any() for p in step.distribution.parameters())
    assert any(not torch.equal(before[k], v) for k, v in step.parent.unshared_weights().items())
    step(3, make_batch())
    assert all(p.any() for p in step.distribution.parameters())


def test_the_search_is_a_function_of_seed_and_step() -> None:
    first, second = make_search_step(), make_search_step()
    for i in range(3):
        torch.manual_seed(i)
        loss = first(i, make_batch()).loss
        torch.manual_seed(i)
        assert second(i, make_batch()).loss == loss
    theta, other_theta = first.distribution.state_dict(), second.distribution.state_dict()
    assert all(torch.equal(theta[k], other_theta[k]) for k in theta)


def test_two_estimators_have_the_same_loss_and_weights() -> None:
    sampled, full = make_search_step("sampled"), make_search_step("full")
    assert sampled(0, make_batch()).loss == pytest.approx(full(0, make_batch()).loss, rel=1e-5)
    pairs = zip(sampled.parent.named_parameters(), full.parent.parameters(), strict=True)
    for (name, parameter), other in pairs:
        torch.testing.assert_close(parameter, other, atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
def expected_size(step: SearchStep) -> tuple[float, float]:
    """Return the expected share of convolutions and the expected depth under P_alpha."""
    convolutions = [OPERATIONS.index(name) for name in CONVOLUTIONS]
    share = torch.softmax(step.distribution.operations, -1)[:, convolutions].sum(-1).mean()
    depth = torch.softmax(step.distribution.layers, 0) @ torch.arange(1.0, 4.0)
    return float(share), float(depth)


def test_the_efficiency_loss_makes_structures_smaller() -> None:
    sizes = []
    for beta in (0.0, 5000.0):
        step = make_search_step(beta=beta, total_steps=40, nodes=2)
        for i in range(40):
            step(i, make_batch())
        sizes.append(expected_size(step))
    (share_without, depth_without), (share_with, depth_with) = sizes
    assert share_with < share_without
    assert depth_with < depth_without


def test_two_halves_of_a_batch_have_the_gradients_of_the_whole() -> None:
    """Each worker's loss is its share; evaluation mode normalises each row without the others."""
    torch.manual_seed(0)
    batch, teacher = make_batch(), ConfidentTeacher(make_batch().labels)
    child = Parent(SHAPE, 3, 3).extract_child(Structure(2, OPERATIONS[:9])).eval()

    def gradients(parts: list[slice]) -> list[torch.Tensor]:
        child.zero_grad()
        for part in parts:
            share = Batch(
                batch.input_ids[part], batch.attention_mask[part], batch.token_type_ids[part],
                batch.labels[part], batch.index[part], 16, 1,
            )  # fmt: skip
            logits, probes = child(share.input_ids, share.attention_mask)
            _, objective = DISTILLATION.loss(logits, probes.unbind(1), share, teacher.rows(share.index))
            objective.backward()
        return [p.grad.clone() for p in child.parameters() if p.grad is not None]

    whole = gradients([slice(0, 16)])
    halves = gradients([slice(0, 5), slice(5, 16)])
    for gradient, sum_of_parts in zip(whole, halves, strict=True):
        torch.testing.assert_close(gradient, sum_of_parts, atol=1e-6, rtol=1e-4)


def test_logits_hints_leave_the_probes_out() -> None:
    batch = make_batch(4)
    logits, probe = torch.randn(4, 2), torch.randn(4, 2)
    teacher = torch.randn(4, 2), torch.randn(4, 3, 2)
    label, objective = DistillationLoss(0.5, 1.0, "logits", False).loss(logits, [probe], batch, teacher)
    expected = 0.5 * label_loss(logits, batch.labels, 4)
    expected = expected + 0.5 * prediction_loss(logits, teacher[0], 4, regression=False)
    torch.testing.assert_close(objective, expected)
    assert float(label) == pytest.approx(float(label_loss(logits, batch.labels, 4)))


def test_a_child_learns_and_keeps_running_statistics() -> None:
    torch.manual_seed(0)
    child = Parent(SHAPE, 3, 3).extract_child(Structure(2, ("std_conv_3",) * 9))
    step = ChildStep(
        child,
        Updater(child, lambda step: 3e-3, weight_decay=0.0, clip=5.0),
        teacher_outputs=ConfidentTeacher(make_batch().labels),
        distillation=DISTILLATION,
        precision="fp32",
        device=CPU,
    )
    losses = [step(i, make_batch()).info["loss"] for i in range(40)]
    assert losses[-1] < 0.3 * losses[0]

    # Evaluation mode normalises with the running statistics.
    child.eval()
    batch = make_batch()
    logits, _ = child(batch.input_ids, batch.attention_mask)
    assert (logits.argmax(1) == batch.labels).float().mean() > 0.9


def test_workers_sum_their_shares_of_the_running_statistics() -> None:
    """With an all-reduce that finds a second worker with equal statistics, the mean is unchanged."""
    means = []
    for has_second_worker in (False, True):
        torch.manual_seed(0)
        child = Parent(SHAPE, 3, 3).extract_child(Structure(2, ("std_conv_3",) * 9))

        def double(tensors: list[torch.Tensor]) -> None:
            for tensor in tensors:
                tensor.mul_(2)

        reduce = double if has_second_worker else None
        step = ChildStep(
            child,
            Updater(child, lambda step: 0.0, weight_decay=0.0, clip=5.0, reduce=reduce),
            teacher_outputs=ConfidentTeacher(make_batch().labels),
            distillation=DISTILLATION,
            precision="fp32",
            device=CPU,
        )
        step(0, make_batch(total=32 if has_second_worker else 16))
        means.append([buffer.clone() for buffer in child.buffers()])
    for one_worker, two_workers in zip(*means, strict=True):
        torch.testing.assert_close(one_worker, two_workers)


def test_the_cosine_rate_falls_from_high_to_low() -> None:
    assert cosine_rate(2e-2, 5e-4, 100, 0) == pytest.approx(2e-2)
    assert cosine_rate(2e-2, 5e-4, 100, 50) == pytest.approx((2e-2 + 5e-4) / 2)
    assert cosine_rate(2e-2, 5e-4, 100, 100) == pytest.approx(5e-4)


def test_the_benchmarks_peer_computes_the_estimator_full() -> None:
    """The peer runs one candidate at a time, times its y: outputs and gradients are those of "full"."""
    outputs = []
    for prepare in (lambda step: step, one_by_one):
        torch.manual_seed(0)
        parent = Parent(SHAPE, 2, 3, OPERATIONS, share=False)
        distribution = Distribution(2, 3, OPERATIONS)
        prepare(SimpleNamespace(parent=parent))  # type: ignore[arg-type]
        sample = distribution.sample(1.0, 3)
        ids = torch.randint(4, 30, (3, 7), generator=torch.Generator().manual_seed(1))
        logits, _ = parent(ids, ids > 0, sample, "full")
        logits[-1].square().sum().backward()

        gradients = {name: p.grad for name, p in parent.named_parameters() if p.grad is not None}
        used = {name: gradient for name, gradient in gradients.items() if gradient.any()}
        outputs.append((logits[-1], used, [p.grad for p in distribution.parameters()]))

    (logits, weights, alpha), (peer_logits, peer_weights, peer_alpha) = outputs
    torch.testing.assert_close(logits, peer_logits)
    assert weights.keys() == peer_weights.keys()
    for name, gradient in weights.items():
        torch.testing.assert_close(gradient, peer_weights[name], rtol=1e-4, atol=1e-6)
    for gradient, peer_gradient in zip(alpha, peer_alpha, strict=True):
        torch.testing.assert_close(gradient, peer_gradient, rtol=1e-4, atol=1e-6)

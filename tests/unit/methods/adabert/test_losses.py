"""Equations 1, 3, 4, 5 and 6 of AdaBERT, by hand and by gradient checks."""

from __future__ import annotations

import math

import pytest
import torch

from raycomp.methods.adabert.efficiency import (
    efficiency_loss,
    operation_costs,
    operation_macs,
    operation_params,
)
from raycomp.methods.adabert.gumbel import Distribution, gumbel_scores, straight_through, temperature_at
from raycomp.methods.adabert.losses import matched_layers, probe_loss, probe_weights, student_objective
from raycomp.methods.adabert.operations import ReluConvNorm
from raycomp.methods.adabert.structure import OPERATIONS
from raycomp.training.objectives import prediction_loss


@pytest.mark.parametrize(
    ("layers", "teacher_layers", "expected"),
    [
        (1, 12, [12]),
        (3, 12, [4, 8, 12]),
        (5, 12, [3, 5, 8, 10, 12]),
        (8, 6, [1, 2, 3, 3, 4, 5, 6, 6]),
        (4, 4, [1, 2, 3, 4]),
    ],
)
def test_layers_are_matched_by_j_is_ceil_i_j_over_k(
    layers: int, teacher_layers: int, expected: list[int]
) -> None:
    matched = matched_layers(layers, teacher_layers)
    assert matched == expected
    assert matched[-1] == teacher_layers  # the released code never matches the last layer


def test_equation_4_weights_by_hand() -> None:
    # Two layers give the gold label the probabilities .8 and .2. The softmax of their logarithms is the
    # probabilities themselves, because their sum is 1.
    logits = torch.tensor([[[0.8, 0.2], [0.2, 0.8]]]).log()
    weights = probe_weights(logits, torch.tensor([0]))
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.2]]))

    regression = probe_weights(torch.tensor([[[1.0], [3.0]]]), torch.tensor([1.0]))
    torch.testing.assert_close(regression, torch.softmax(torch.tensor([[0.0, -4.0]]), 1))


def test_equation_3_and_4_by_hand() -> None:
    student = torch.tensor([[[0.7, 0.3], [0.5, 0.5]]]).log()
    teacher = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]]).log()
    weights = torch.tensor([[0.25, 0.75]])
    first_layer = -(0.9 * math.log(0.7) + 0.1 * math.log(0.3))
    second_layer = -math.log(0.5)
    expected = (0.25 * first_layer + 0.75 * second_layer) / 2
    assert float(probe_loss(student, teacher, weights, total=2)) == pytest.approx(expected, rel=1e-6)

    at_temperature_2 = float(probe_loss(student, teacher, weights, total=1, temperature=2.0))
    target = torch.softmax(teacher / 2, -1)
    layer_losses = -(target * torch.log_softmax(student / 2, -1)).sum(-1)
    assert at_temperature_2 == pytest.approx(4 * float((weights * layer_losses).sum()), rel=1e-6)

    values, targets = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]])
    assert float(probe_loss(values, targets, weights, 1)) == pytest.approx(0.25 * 4 + 0.75 * 9)


def test_distillation_gradients() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(3, 2, 4)
    weights = probe_weights(teacher, torch.tensor([0, 1, 3])).double()

    def loss(student: torch.Tensor) -> torch.Tensor:
        return probe_loss(student, teacher, weights, 3, 1.5).double()

    student = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    # The losses are computed in fp32, so steps and tolerances are large.
    assert torch.autograd.gradcheck(loss, (student,), eps=1e-2, atol=1e-3, rtol=1e-2)


def test_both_terms_of_distillation_have_the_same_gradient_at_any_temperature() -> None:
    """A student of one probe that is its classifier, at T = 4: without T^2 the probe's term is 16 times
    weaker."""
    teacher = torch.tensor([[2.0, -1.0], [0.5, 1.0]])
    gradients = []
    for scaled in (True, False):
        logits = torch.zeros(2, 2, requires_grad=True)
        probe = torch.zeros(2, 1, 2, requires_grad=True)
        prediction_loss(logits, teacher, 2, regression=False, temperature=4.0).backward()
        probe_loss(probe, teacher[:, None], torch.ones(2, 1), 2, 4.0, scaled=scaled).backward()
        assert logits.grad is not None
        assert probe.grad is not None
        gradients.append(probe.grad[:, 0] / logits.grad)
    assert torch.allclose(gradients[0], torch.ones(2, 2))
    assert torch.allclose(gradients[1], torch.full((2, 2), 1 / 16))

    # Outputs of a regression are not divided by T.
    student, target = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    assert float(probe_loss(student, target, torch.ones(1, 1), 1, 4.0)) == 1


def test_equation_1_by_hand() -> None:
    """Without beta L_E, which `test_mutants.py` checks in a search step."""
    objective = student_objective(torch.tensor(2.0), torch.tensor(3.0), 0.8)
    assert float(objective) == pytest.approx(0.2 * 2 + 0.8 * 3)


def test_figures_of_an_operation_are_those_of_its_module() -> None:
    module = ReluConvNorm(128, 7, 1)
    assert operation_params("std_conv_7", 128) == sum(p.numel() for p in module.parameters())
    assert operation_macs("dil_conv_5", 128, 128) == 128 * 128 * 5 * 128
    assert operation_params("skip", 128) == operation_macs("zero", 128, 128) == 0


def test_both_normalisations_have_the_published_range() -> None:
    released = operation_costs(OPERATIONS, 128, 128, "released")
    spread = operation_costs(OPERATIONS, 128, 128, "spread")
    assert float(released.max() / released.min()) == pytest.approx(1.14, abs=0.01)
    assert (float(spread.min()), float(spread.max())) == pytest.approx((0.050, 0.185), abs=1e-3)
    for costs in (released, spread):
        assert float(costs.sum()) == pytest.approx(1.0)


def test_equation_5_by_hand_and_its_gradient() -> None:
    costs = operation_costs(OPERATIONS, 128, 128, "spread")
    layers = torch.zeros(8)
    layers[2] = 1  # K = 3
    operations = torch.zeros(9, 10)
    columns = [0, 1, 2, 3, 4, 5, 6, 8, 9]
    operations[range(9), columns] = 1
    expected = 3 / 8 * sum(float(costs[i]) for i in columns)
    assert float(efficiency_loss(layers, operations, costs)) == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(
        lambda k, o: efficiency_loss(k, o, costs.double()),
        (layers.double().requires_grad_(), operations.double().requires_grad_()),
    )


def test_equation_6_is_one_hot_forward_and_soft_backward() -> None:
    tau = 0.7
    logits = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    y = straight_through(gumbel_scores(logits, tau, torch.Generator().manual_seed(3)))
    assert sorted(y.tolist()) == [0.0, 0.0, 1.0]

    generator = torch.Generator().manual_seed(3)
    noise = -torch.log(-torch.log(torch.rand(3, generator=generator, dtype=torch.float64)))
    soft = torch.softmax((logits.detach() + noise.float()) / tau, -1)
    weights = torch.tensor([1.0, 2.0, -1.0])
    (y * weights).sum().backward()
    expected = (torch.diag(soft) - torch.outer(soft, soft)) @ weights / tau
    torch.testing.assert_close(logits.grad, expected)


def test_samples_follow_theta() -> None:
    theta = torch.tensor([0.6, 0.3, 0.1])
    generator = torch.Generator().manual_seed(0)
    samples = [straight_through(gumbel_scores(theta.log(), 1.0, generator)) for _ in range(4000)]
    torch.testing.assert_close(torch.stack(samples).mean(0), theta, atol=0.03, rtol=0)


def test_the_same_seed_draws_the_same() -> None:
    distribution = Distribution(8, 3, OPERATIONS)
    structures = {distribution.sample(1.0, seed).structure for seed in range(30)}
    assert len(structures) == 30
    assert distribution.sample(1.0, 5).structure == distribution.sample(0.3, 5).structure
    assert all(1 <= structure.layers <= 8 for structure in structures)
    assert distribution.normalised_entropy() == pytest.approx(1.0)
    assert len(distribution.probabilities()) == 8 + 90


def test_temperature_falls_from_one_to_a_fifth() -> None:
    assert temperature_at(0.0) == 1.0
    assert temperature_at(40 / 80) == pytest.approx(math.exp(-0.02 * 40))
    assert temperature_at(1.0) == pytest.approx(math.exp(-1.6))
    assert temperature_at(2.0) == 0.2

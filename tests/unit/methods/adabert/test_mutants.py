"""AdaBERT's gradients and choices by hand, and the mutants that the assertions reject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.step import PAPER_BATCH, SearchStep
from raycomp.methods.adabert.structure import OPERATIONS
from tests.unit.methods.adabert.builders import make_batch, make_search_step

BETA = 40.0


@contextmanager
def broken(target: Any, name: str, replacement: Any) -> Iterator[None]:
    """Replace one part of an object for the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, replacement)
        yield


def beta_share(beta: float) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return what beta adds to a step's loss and to the gradients of P_K and P_o."""
    losses = []
    gradients: list[list[torch.Tensor]] = []
    for value in (beta, 0.0):
        step = make_search_step(beta=value)
        step.updater = Discarding()  # type: ignore[assignment]
        losses.append(step(30, make_batch()).loss)
        parameters = (step.distribution.layers, step.distribution.operations)
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
    layers, operations = (a - b for a, b in zip(*gradients, strict=True))
    return losses[0] - losses[1], layers, operations


class Discarding:
    """An updater that changes no parameter."""

    reduce = None

    def apply(self, step: int, touched: list[torch.Tensor], extra: torch.Tensor) -> None:
        pass


def expected_beta_share(beta: float) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return value and gradients of beta / 128 * K / K_max * sum of costs, written out (Eq. 5)."""
    step = make_search_step(beta=beta)
    sample, _, _ = step._sampled_forward(30, make_batch())
    costs = {name: float(cost) for name, cost in zip(OPERATIONS, step.op_costs, strict=True)}
    edges = sum(costs[name] for name in sample.structure.operations)
    depth = sample.structure.layers

    # The soft samples carry the gradients of Eq. 6.
    weight = beta / PAPER_BATCH
    depths = torch.arange(1.0, 4.0)
    value = weight * (sample.layers @ depths) / 3 * (sample.operations @ step.op_costs).sum()
    parameters = [step.distribution.layers, step.distribution.operations]
    layers, operations = torch.autograd.grad(value, parameters)
    return weight * depth / 3 * edges, layers, operations


def test_beta_of_equation_1_is_in_the_loss_and_in_the_gradient_of_p_alpha() -> None:
    def has_beta() -> bool:
        value, layers, operations = beta_share(BETA)
        expected, expected_layers, expected_operations = expected_beta_share(BETA)
        return (
            value == pytest.approx(expected, rel=1e-4)
            and torch.allclose(layers, expected_layers, rtol=1e-3, atol=1e-7)
            and torch.allclose(operations, expected_operations, rtol=1e-3, atol=1e-7)
        )

    assert has_beta()
    efficiency = "raycomp.methods.adabert.step.efficiency_loss"
    mutants: dict[str, Callable[..., torch.Tensor]] = {
        "no efficiency loss": lambda layers, operations, costs: operations.sum() * 0,
        "no gradient": lambda layers, operations, costs: (operations.detach() @ costs).sum(),
        "depth does not count": lambda layers, operations, costs: (operations @ costs).sum(),
    }
    for name, mutant in mutants.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(efficiency, mutant)
            assert not has_beta(), name


def depth_gradients(step: SearchStep) -> tuple[list[float], list[float]]:
    """Return the gradient of y^K in one step, and the loss at each depth, computed one by one."""
    batch = make_batch()
    index = next(i for i in range(99) if depth_of(step, i) == 3)
    sample, logits, probes = step._sampled_forward(index, batch)
    sample.layers.retain_grad()
    teacher = step.teacher_outputs.rows(batch.index)
    _, objectives = step._depth_objectives(logits, probes, batch, teacher, 3)
    step._depth_surrogate(sample, objectives).backward()
    gradient = [0.0] * 3 if sample.layers.grad is None else sample.layers.grad.tolist()

    alone = [
        float(step.distillation.loss(logits[k], probes[: k + 1], batch, teacher)[1].detach())
        for k in range(3)
    ]
    return gradient, alone


def depth_of(step: SearchStep, index: int) -> int:
    sample, _, _ = step._sampled_forward(index, make_batch())
    return sample.structure.layers


def test_the_gradient_of_a_depth_is_the_loss_at_this_depth() -> None:
    gradient, alone = depth_gradients(make_search_step())
    assert gradient == pytest.approx(alone, rel=1e-5)
    assert len(set(alone)) == 3

    mutants: dict[str, Callable[..., torch.Tensor]] = {
        "y does not count": lambda self, sample, objectives: torch.stack(objectives).mean(),
        "the last loss only": lambda self, sample, objectives: (
            objectives[-1] * sample.layers.sum().clamp(min=1)
        ),
        "reversed": lambda self, sample, objectives: (
            objectives[-1] - (sample.layers * torch.stack(objectives).detach()).sum()
        ),
    }
    for name, mutant in mutants.items():
        with broken(SearchStep, "_depth_surrogate", mutant):
            gradient, alone = depth_gradients(make_search_step())
        assert gradient != pytest.approx(alone, rel=1e-5), name


def distribution_with(best: list[str], depth: int) -> Distribution:
    """Return P_alpha whose largest logits are at a depth and at one operation per edge."""
    distribution = Distribution(3, 3, OPERATIONS)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for logits in (distribution.layers, distribution.operations):
            logits.copy_(torch.rand(logits.shape, generator=generator))
        distribution.layers[depth - 1] = 2.0
        for edge, name in enumerate(best):
            distribution.operations[edge, OPERATIONS.index(name)] = 2.0
    return distribution


def test_the_child_is_the_argmax_of_p_alpha() -> None:
    best = ["skip", "zero", *OPERATIONS[:7]]
    distribution = distribution_with(best, 2)

    def is_argmax() -> bool:
        structure = distribution.most_likely()
        return structure.layers == 2 and list(structure.operations) == best

    assert is_argmax()
    with torch.no_grad():
        for parameter in distribution.parameters():
            parameter.neg_()
    assert not is_argmax()

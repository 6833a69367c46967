"""The parent and its children: inherited weights, gradients of the choices, embeddings."""

from __future__ import annotations

import pytest
import torch

from raycomp.errors import UserError
from raycomp.methods.adabert.gumbel import Distribution, Sample
from raycomp.methods.adabert.modules import pool_states
from raycomp.methods.adabert.operations import apply_operations
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS, Structure
from raycomp.methods.adabert.student import Child, Parent, StudentShape
from tests.unit.methods.adabert.builders import (
    EXACT_MATCH,
    ONE_TEXT,
    PAIR,
    make_texts,
    perturb,
    seeded_structure,
)

TAU = 0.7


def test_a_child_inherits_and_equals_the_parents_path() -> None:
    torch.manual_seed(0)
    parent = Parent(PAIR, 4, 3).eval()
    distribution = Distribution(4, 3, OPERATIONS)
    perturb(parent)
    ids, real = make_texts()
    for seed in range(5):
        sample = distribution.sample(1.0, seed)
        depth = sample.structure.layers
        child = parent.extract_child(sample.structure).eval()
        logits, probes = child(ids, real)
        for estimator in ("sampled", "contrast", "full"):
            parent_logits, parent_probes = parent(ids, real, sample, estimator)
            parent_probes = torch.stack(parent_probes[:depth], 1)
            torch.testing.assert_close(parent_logits[depth - 1], logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(parent_probes, probes, atol=1e-5, rtol=1e-5)


def slopes_of_the_choices(
    parent: Parent, structure: Structure, edge: int, weights: torch.Tensor
) -> dict[str, float]:
    """Return d loss / d y_o for each operation o of an edge of a cell with one inner node.

    The plain form: every output of every candidate times its y.
    """
    ids, real = make_texts()
    slopes = {}
    for operation in OPERATIONS:
        y = torch.zeros(len(OPERATIONS), requires_grad=True)
        states, mask = parent.embed_inputs(ids, real)
        node = torch.zeros_like(states[0])
        for source in range(2):
            for i, name in enumerate(OPERATIONS):
                module = parent.cells[0].edges[source][name]
                (output,) = apply_operations(states[source], mask, [(name, module)])
                if output is None:
                    continue
                hard = float(name == structure.operations[source])
                is_varied = source == edge and name == operation
                node = node + output * (hard + y[i] if is_varied else hard)
        state = parent.cells[0].summary([node], mask)
        (parent.head(pool_states(state, mask)) * weights).sum().backward()
        slopes[operation] = 0.0 if y.grad is None else float(y.grad[OPERATIONS.index(operation)])
    return slopes


def expected_gradient(
    estimator: str, sample: Sample, edge: int, slopes: dict[str, float], run: list[str]
) -> list[float]:
    """Return d loss / d logits of an edge by an estimator's rule, with the operations that it ran."""
    soft = torch.softmax(sample.scores[edge], -1).detach().tolist()
    sampled = sample.structure.operations[edge]
    if estimator == "sampled":
        i = OPERATIONS.index(sampled)
        jacobian = [float(n == i) - soft[n] for n in range(len(OPERATIONS))]
        return [slopes[sampled] * soft[i] * value / TAU for value in jacobian]
    # A softmax over the operations that ran: all of them for "full".
    total = sum(soft[OPERATIONS.index(o)] for o in run)
    p = {o: soft[OPERATIONS.index(o)] / total for o in run}
    mean = sum(p[o] * slopes[o] for o in run)
    return [p[o] * (slopes[o] - mean) / TAU if o in p else 0.0 for o in OPERATIONS]


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_gradients_of_the_choice_are_inner_products(estimator: str) -> None:
    """d loss / d y_o is <d loss / d edge, output of o> for operations that ran."""
    torch.manual_seed(0)
    parent = Parent(ONE_TEXT, 1, 1, share=False).eval()
    distribution = Distribution(1, 1, OPERATIONS)
    perturb(parent)
    ids, real = make_texts()
    sample = distribution.sample(TAU, 4)
    logits, _ = parent(ids, real, sample, estimator)
    weights = torch.randn_like(logits[0])
    distribution.zero_grad()
    (logits[0] * weights).sum().backward()
    gradient = distribution.operations.grad
    assert gradient is not None

    # Only the sampled operations have gradients of their weights.
    sampled = sample.structure.operations
    parameters = parent.named_parameters()
    trained = {name for name, p in parameters if p.grad is not None and ".edges." in name}
    convolutions = {f"cells.0.edges.{e}.{o}" for e, o in enumerate(sampled) if o in CONVOLUTIONS}
    assert {name.rsplit(".", 1)[0] for name in trained} == convolutions

    for edge in range(2):
        slopes = slopes_of_the_choices(parent, sample.structure, edge, weights)
        run = list(OPERATIONS)
        if estimator == "contrast":
            # The operations without weights, and one convolution; their gradients sum to 0.
            run = [o for i, o in enumerate(OPERATIONS) if float(gradient[edge, i]) != 0]
            assert abs(float(gradient[edge].sum())) < 1e-4
            assert set(OPERATIONS[6:]) <= set(run)
            assert len(run) == 6 - (sampled[edge] not in CONVOLUTIONS)
        expected = torch.tensor(expected_gradient(estimator, sample, edge, slopes, run))
        torch.testing.assert_close(gradient[edge], expected, atol=1e-4, rtol=1e-3)


def test_shared_kernels_are_the_middle_of_the_widest() -> None:
    shared, unshared = Parent(ONE_TEXT, 1, 1), Parent(ONE_TEXT, 1, 1, share=False)
    for edge in shared.cells[0].edges:
        for dilation in ("std", "dil"):
            widest = edge[f"{dilation}_conv_7"].taps
            assert torch.equal(edge[f"{dilation}_conv_5"].taps, widest[..., 1:6])
            assert torch.equal(edge[f"{dilation}_conv_3"].taps, widest[..., 2:5])
    assert not any("conv_3.weight" in name for name in shared.state_dict())
    assert any("conv_3.weight" in name for name in unshared.state_dict())
    names = unshared.state_dict().keys()
    assert shared.unshared_weights().keys() == names == unshared.unshared_weights().keys()

    shared.cells[0].edges[0]["std_conv_3"].taps.sum().backward()
    gradient = shared.cells[0].edges[0]["std_conv_7"].weight.grad
    assert gradient[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_the_embedding_takes_the_best_factors_of_the_teacher() -> None:
    torch.manual_seed(0)
    child = Child(StudentShape(40, 6, 8, 5, 2, False, 3, 0), seeded_structure(0))
    tokens = torch.randn(40, 6) @ torch.randn(6, 20)  # a table of rank 6, the rank of the embedding
    child.embedding.factorise(tokens, torch.randn(9, 20))
    table = child.embedding.word.weight.detach()
    # All inner products stay the same, up to one factor.
    ratio = (table @ table.T) / (tokens @ tokens.T)
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])), rtol=1e-3, atol=0)

    with pytest.raises(UserError, match="41 tokens"):
        child.embedding.factorise(torch.randn(41, 20), torch.randn(9, 20))


@torch.no_grad()
def test_exact_match_finds_shared_tokens_at_any_position() -> None:
    torch.manual_seed(0)
    child = Child(EXACT_MATCH, Structure(1, ("skip",) * 9)).eval()
    child.embedding.word.weight.fill_(1.0)  # all tokens look alike, except for exact match
    texts = [[2, 7, 8, 3, 8, 9, 7, 3], [2, 7, 8, 3, 9, 7, 8, 3], [2, 7, 8, 3, 9, 6, 5, 3]]
    real = torch.ones(1, 8, dtype=torch.bool)
    first_states = [child.embed_inputs(torch.tensor([ids]), real)[0][0] for ids in texts]
    without_match = first_states[2]
    changes = [round(float((state - without_match).abs().sum()), 4) for state in first_states]
    assert changes[0] == changes[1] > 0
    assert changes[2] == 0

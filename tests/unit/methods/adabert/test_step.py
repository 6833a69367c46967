"""The search step, the child's step, the probes and the drawing."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks.claims.adabert_step import one_by_one
from raycomp.data.batches import Batch
from raycomp.methods.adabert.drawing import draw_structure
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.probes import apply_probes, fit_probe, probe_features
from raycomp.methods.adabert.step import ChildStep, DistillationLoss, SearchStep, cosine_rate
from raycomp.methods.adabert.structure import CONVOLUTIONS, OPERATIONS, Structure
from raycomp.methods.adabert.student import Parent, StudentShape
from raycomp.training.objectives import label_loss, prediction_loss
from raycomp.training.optimizers import JointUpdater, Updater

CPU = torch.device("cpu")
SHAPE = StudentShape(30, 8, 12, 16, 2, False, 3, 0)


class Fixed:
    """A teacher that is nearly sure of the label, from three layers."""

    def __init__(self, labels: torch.Tensor) -> None:
        sure = torch.nn.functional.one_hot(labels, 2) * 4.0
        self.said = sure, torch.stack([sure / 4, sure / 2, sure], 1)

    def rows(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self.said[0][index], self.said[1][index]


def batch(rows: int = 16, total: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 30, (rows, 9), generator=generator)
    labels = torch.arange(rows) % 2
    ids[:, 0] = 4 + labels  # the first token tells
    real = torch.arange(9) < torch.randint(3, 10, (rows, 1), generator=generator)
    return Batch(ids * real, real, ids * 0, labels, np.arange(rows), total or rows, int(real.sum()))


def search(
    estimator: str = "sampled", beta: float = 0.0, total: int = 60, alpha_warmup_steps: int = 0
) -> SearchStep:
    torch.manual_seed(0)
    parent = Parent(SHAPE, 3, 3)
    distribution = Distribution(3, 3, OPERATIONS)
    sgd = functools.partial(torch.optim.SGD, momentum=0.9, lr=0.02)
    adam = functools.partial(torch.optim.Adam, betas=(0.5, 0.999))
    updater = JointUpdater(
        [
            Updater(parent, lambda s: 0.02, weight_decay=0.0, clip=5.0, optimizer=sgd),
            Updater(distribution, lambda s: 0.05, weight_decay=0.0, clip=1e9, optimizer=adam),
        ]
    )
    return SearchStep(
        parent, distribution, updater, teacher_outputs=Fixed(batch().labels),
        distillation=DistillationLoss(0.8, 1.0, "probes", False),
        op_costs=operation_costs(OPERATIONS, 128, 128, "spread"),
        beta=beta, estimator=estimator, supervised_depths="depths", alpha_warmup_steps=alpha_warmup_steps,
        total_steps=total, seed=1, precision="fp32", device=CPU,
    )  # fmt: skip


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_search_steps_in_bf16(estimator: str) -> None:
    """There a convolution's output is bf16, and what a skip or a pool passes on may be fp32."""
    step = search(estimator)
    step.precision = "bf16"
    for i in range(8):
        step(i, batch())
    assert all(torch.isfinite(p).all() and p.any() for p in step.distribution.parameters())


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_search_learns(estimator: str) -> None:
    step = search(estimator)
    losses = [step(i, batch()).info["loss"] for i in range(60)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_p_alpha_waits_while_the_weights_learn() -> None:
    step = search("contrast", alpha_warmup_steps=3)
    before = step.parent.unshared_weights()
    for i in range(3):
        step(i, batch())
    assert not any(p.any() for p in step.distribution.parameters())
    assert any(not torch.equal(before[k], v) for k, v in step.parent.unshared_weights().items())
    step(3, batch())
    assert all(p.any() for p in step.distribution.parameters())


def test_every_depth_is_taught_or_the_drawn_one_alone() -> None:
    """The classifier's loss is the mean over the cells up to the drawn one, or the last one's."""
    taught = {}
    for supervise in ("depths", "drawn"):
        step = search(alpha_warmup_steps=99)
        step.supervised_depths = supervise
        seen = step._losses

        def losses(*given: Any, seen: Any = seen, key: str = supervise) -> Any:
            taught[key] = [loss.requires_grad for loss in seen(*given)[1]]
            return seen(*given)

        step._losses = losses  # type: ignore[method-assign]
        index = next(
            i for i in range(99)
            if step.distribution.sample(1.0, step.seed * 7_368_787 + i).structure.layers == 3
        )  # fmt: skip
        step(index, batch())
    assert taught == {"depths": [True, True, True], "drawn": [False, False, True]}


def test_search_is_a_function_of_seed_and_step() -> None:
    one, two = search(), search()
    for i in range(3):
        torch.manual_seed(i)
        first = one(i, batch()).loss
        torch.manual_seed(i)
        assert two(i, batch()).loss == first
    theta, other = one.distribution.state_dict(), two.distribution.state_dict()
    assert all(torch.equal(theta[k], other[k]) for k in theta)


def test_both_estimators_have_the_same_loss_and_weights() -> None:
    one, two = search("sampled"), search("full")
    assert one(0, batch()).loss == pytest.approx(two(0, batch()).loss, rel=1e-5)
    for (name, p), q in zip(one.parent.named_parameters(), two.parent.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
def _measure(step: SearchStep) -> tuple[float, float]:
    heavy = [OPERATIONS.index(n) for n in CONVOLUTIONS]
    p = torch.softmax(step.distribution.operations, -1)[:, heavy].sum(-1).mean()
    depth = torch.softmax(step.distribution.layers, 0) @ torch.arange(1.0, 4.0)
    return float(p), float(depth)


def test_a_price_makes_structures_smaller() -> None:
    sizes = []
    for beta in (0.0, 5000.0):
        step = search(beta=beta, total=80)
        for i in range(80):
            step(i, batch())
        sizes.append(_measure(step))
    assert sizes[1][0] < sizes[0][0]
    assert sizes[1][1] < sizes[0][1]


def test_two_halves_of_a_batch_have_the_gradients_of_the_whole() -> None:
    """Each worker's loss is its share; in evaluation mode normalisation sees no batch."""
    torch.manual_seed(0)
    whole, knowledge = batch(), Fixed(batch().labels)
    child = Parent(SHAPE, 3, 3).extract_child(Structure(2, OPERATIONS[:9])).eval()
    guide = DistillationLoss(0.8, 1.0, "probes", False)

    def gradients(parts: list[slice]) -> list[torch.Tensor]:
        child.zero_grad()
        for part in parts:
            mine = Batch(
                whole.input_ids[part], whole.attention_mask[part], whole.token_type_ids[part],
                whole.labels[part], whole.index[part], 16, 1,
            )  # fmt: skip
            logits, probes = child(mine.input_ids, mine.attention_mask)
            guide.loss(logits, probes.unbind(1), mine, knowledge.rows(mine.index))[1].backward()
        return [p.grad.clone() for p in child.parameters() if p.grad is not None]

    for a, b in zip(gradients([slice(0, 16)]), gradients([slice(0, 5), slice(5, 16)]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_logits_hints_leave_the_probes_out() -> None:
    one = batch(4)
    logits, probe = torch.randn(4, 2), torch.randn(4, 2)
    said = torch.randn(4, 2), torch.randn(4, 3, 2)
    label, guided = DistillationLoss(0.5, 1.0, "logits", False).loss(logits, [probe], one, said)
    want = 0.5 * label_loss(logits, one.labels, 4)
    want = want + 0.5 * prediction_loss(logits, said[0], 4, regression=False)
    torch.testing.assert_close(guided, want)
    assert float(label) == pytest.approx(float(label_loss(logits, one.labels, 4)))


def test_child_learns_and_keeps_statistics() -> None:
    torch.manual_seed(0)
    child = Parent(SHAPE, 3, 3).extract_child(Structure(2, ("std_conv_3",) * 9))
    updater = Updater(child, lambda s: 3e-3, weight_decay=0.0, clip=5.0)
    step = ChildStep(
        child, updater, teacher_outputs=Fixed(batch().labels),
        distillation=DistillationLoss(0.8, 1.0, "probes", False), precision="fp32", device=CPU,
    )  # fmt: skip
    losses = [step(i, batch()).info["loss"] for i in range(40)]
    assert losses[-1] < 0.3 * losses[0]
    child.eval()
    logits, _ = child(batch().input_ids, batch().attention_mask)
    assert (logits.argmax(1) == batch().labels).float().mean() > 0.9


def test_cosine_goes_from_high_to_low() -> None:
    assert cosine_rate(2e-2, 5e-4, 100, 0) == pytest.approx(2e-2)
    assert cosine_rate(2e-2, 5e-4, 100, 50) == pytest.approx((2e-2 + 5e-4) / 2)
    assert cosine_rate(2e-2, 5e-4, 100, 100) == pytest.approx(5e-4)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_probes_find_what_is_there(classes: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (600, 20)).astype(np.float32)
    score = x[:, :3] - x[:, :3].mean(0)
    labels = score[:, 0] if classes == 1 else score[:, :classes].argmax(1)
    weight, bias = fit_probe(x, labels.astype(np.float32 if classes == 1 else np.int64), classes)
    assert weight.shape == (classes, 20)
    said = apply_probes(torch.from_numpy(x).unsqueeze(1), weight.unsqueeze(0), bias.unsqueeze(0))
    assert said.shape == (600, 1, classes)
    got = said[:, 0].numpy()
    if classes == 1:
        assert np.corrcoef(got[:, 0], labels)[0, 1] > 0.95
    else:
        assert (got.argmax(1) == labels).mean() > 0.9


def test_a_class_without_rows_is_never_said() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    weight, bias = fit_probe(x, (x[:, 0] > 0).astype(np.int64) * 2, 3)
    said = apply_probes(torch.from_numpy(x).unsqueeze(1), weight[None], bias[None])
    assert set(said[:, 0].argmax(1).tolist()) == {0, 2}


def test_features_ignore_padding() -> None:
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    got = probe_features([hidden, hidden * 2], mask)
    assert got.shape == (2, 2, 6)
    torch.testing.assert_close(got[0, 0, 3:], hidden[0, :2].mean(0))
    torch.testing.assert_close(got[0, 1, :3], 2 * hidden[0, 0])


def test_drawing_shows_every_edge_that_lives() -> None:
    structure = Structure(4, OPERATIONS[1:])
    root = ElementTree.fromstring(draw_structure(structure))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    for name in OPERATIONS[1:-1]:
        assert name in texts
    assert "zero" not in texts
    assert any("4 cells" in str(t) for t in texts)


def test_the_peer_of_the_benchmark_computes_what_full_does() -> None:
    """One candidate at a time, each times its y: outputs and gradients are those of "full"."""
    found = []
    for form in (lambda step: step, one_by_one):
        torch.manual_seed(0)
        parent = Parent(SHAPE, 2, 3, OPERATIONS, share=False)
        distribution = Distribution(2, 3, OPERATIONS)
        form(SimpleNamespace(parent=parent))  # type: ignore[arg-type]
        sample = distribution.sample(1.0, 3)
        ids = torch.randint(4, 30, (3, 7), generator=torch.Generator().manual_seed(1))
        logits, _ = parent(ids, ids > 0, sample, "full")
        logits[-1].square().sum().backward()
        used = {n: p.grad for n, p in parent.named_parameters() if p.grad is not None and p.grad.any()}
        found.append((logits[-1], used, [p.grad for p in distribution.parameters()]))
    (one, grads, alpha), (other, others, same) = found
    torch.testing.assert_close(one, other)
    assert grads.keys() == others.keys()
    for name, value in grads.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-6)
    for first, second in zip(alpha, same, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)

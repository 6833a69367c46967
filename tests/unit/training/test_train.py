from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raycomp.encoder.architecture import enclosing_architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder
from raycomp.errors import DivergedError
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.space import SearchSpace
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import DISTILLATION, LABELS_ONLY
from raycomp.training.learning_rates import constant_share
from raycomp.training.loop import StepResult, fit, seed_generators
from raycomp.training.objectives import label_loss, prediction_loss, squared_error
from raycomp.training.optimizers import (
    LinearDecay,
    Updater,
    measure_bf16_speedup,
    measure_matmul_flops,
    resolve_precision,
)
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep
from tests.unit.encoder.test_elastic import make_batch, make_pair

CPU = torch.device("cpu")
SPACE = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))


def updater(model: torch.nn.Module, total: int = 20) -> Updater:
    return Updater(model, LinearDecay(1e-3, 0.1, (0, total)), weight_decay=0.01, clip=1.0)


def test_seeded_draws_are_those_of_torch_s_own_seed() -> None:
    torch.manual_seed(2**62 + 7)
    expected = torch.rand(5)
    seed_generators(2**62 + 7)
    assert torch.equal(torch.rand(5), expected)


def test_linear_decay() -> None:
    decay = LinearDecay(1.0, 0.2, (0, 10, 20))
    assert decay(0) == pytest.approx(0.5)
    assert decay(1) == pytest.approx(1.0)
    assert decay(9) == pytest.approx(1 / 8)
    assert decay(10) == pytest.approx(0.5)  # a stretch begins anew


def test_a_late_decay_keeps_the_rate_until_the_last_fifth() -> None:
    late = LinearDecay(1.0, 0.1, (0, 100), constant_share("late"))
    assert late(4) == pytest.approx(0.5)
    assert [late(step) for step in (9, 50, 79, 80)] == [1.0] * 4
    assert late(90) == pytest.approx(0.5)
    assert late(99) == pytest.approx(1 / 20)

    decay = LinearDecay(1.0, 0.1, (0, 100))
    whole = LinearDecay(1.0, 0.1, (0, 100), constant_share("run"))
    assert [whole(step) for step in range(100)] == [decay(step) for step in range(100)]


def test_the_loop_ends_on_a_loss_that_is_not_finite() -> None:
    def step(index: int, batch: object) -> StepResult:
        return StepResult(math.nan if index == 3 else 1.0, 1)

    seen: list[int] = []
    with pytest.raises(DivergedError, match="step 3"):
        fit(step, lambda i: make_batch(), 0, 9, seed=0, report=lambda i, r, s: seen.append(i))  # type: ignore[arg-type]
    assert seen == [0, 1, 2]


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.e)) / 4
    assert float(label_loss(logits, labels, 4)) == pytest.approx(expected)
    assert float(label_loss(torch.tensor([[2.0]]), torch.tensor([0.5]), 1)) == pytest.approx(2.25)
    own = prediction_loss(logits, logits, 2, regression=False)
    p = torch.softmax(logits, -1)
    assert float(own) == pytest.approx(float(-(p * p.log()).sum() / 2), rel=1e-5)
    mask = torch.tensor([[True, False]])
    state = torch.tensor([[[1.0, 3.0], [9.0, 9.0]]])
    assert float(squared_error(state, torch.zeros(1, 2, 2), mask)) == pytest.approx(10.0)


def test_optimizer_state_round_trips_bit_for_bit() -> None:
    one, two = make_pair()[1], make_pair()[1]
    a, b = updater(one), updater(two)
    step_a = FinetuneStep(one, a, precision="fp32", device=CPU)
    fit(step_a, lambda i: make_batch(seed=i), 0, 5, seed=1, report=lambda *x: None)
    two.load_state_dict(one.state_dict())
    b.load_state_tensors({k: v.clone() for k, v in a.state_tensors().items()})
    step_b = FinetuneStep(two, b, precision="fp32", device=CPU)
    for step in (step_a, step_b):
        fit(step, lambda i: make_batch(seed=i), 5, 9, seed=1, report=lambda *x: None)
    for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def slices(model: ElasticEncoder) -> SliceUpdater:
    return SliceUpdater(model, LinearDecay(1e-3, 0.1, (0, 20)), weight_decay=0.01, clip=1.0)


def super_step(model: ElasticEncoder, **changes: object) -> SupernetStep:
    schedule = Schedule(progressive_phases(SPACE), (1, 1, 1, 1, 1, 1, 20))
    sampler = EESNG(SPACE, schedule, EESNGSettings(pairing="free"))
    teacher = make_pair()[1]
    given = {
        "teacher": lambda batch: teacher(batch, None, hidden=True),
        "objective": DISTILLATION["hidden"],
        "precision": "fp32",
        "device": CPU,
        **changes,
    }
    return SupernetStep(model, sampler, slices(model), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("distill", ["none", "logits", "hidden"])
def test_a_super_step_trains_what_it_samples_and_nothing_else(distill: str) -> None:
    model = make_pair()[1]
    teacher = None if distill == "none" else make_pair(1)[1]
    step = super_step(
        model,
        objective=DISTILLATION[distill],
        teacher=teacher and (lambda b: teacher(b, None, hidden=distill == "hidden")),
    )
    still = 0
    for index in range(12):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        used = dict(model.active_parameters(enclosing_architecture(step.sampler.ask(index))))
        result = step(index, make_batch(seed=index))
        assert math.isfinite(result.loss)
        for name, parameter in model.named_parameters():
            moved = parameter.detach() != before[name]
            outside = torch.ones_like(moved)
            if name in used:
                assert moved[used[name]].any(), name
                outside[used[name]] = False
            assert not (moved & outside).any(), name
            still += int(outside.sum())
    assert still  # some step left something out


def test_both_of_a_pair_are_scored_on_the_same_batch_with_the_same_weights() -> None:
    model = make_pair()[1]
    model.set_dropout(0.0)
    step = super_step(model, objective=LABELS_ONLY, teacher=None)
    told: list[list[float]] = []
    tell = step.sampler.tell
    step.sampler.tell = lambda i, losses: (told.append(list(losses)), tell(i, losses))[1]  # type: ignore[method-assign]
    for index in range(8):
        batch = make_batch(seed=index)
        archs = step.sampler.ask(index)
        with torch.no_grad():
            expected = [float(label_loss(model(batch, a).logits, batch.labels, 5)) for a in archs]
        step(index, batch)
        assert told[-1] == pytest.approx(expected, rel=1e-5)


def test_shares_of_a_split_batch_add_up_to_the_whole() -> None:
    """What N workers sum: gradients and losses of shards, each divided by the global batch."""
    from dataclasses import replace

    model = make_pair()[1]
    whole = make_batch(rows=6)
    label_loss(model(whole).logits, whole.labels, 6).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for rows in (np.arange(0, 6, 2), np.arange(1, 6, 2)):
        part = replace(
            whole,
            **{
                key: getattr(whole, key)[rows]
                for key in ("input_ids", "attention_mask", "token_type_ids", "labels")
            },
        )
        label_loss(model(part).logits, part.labels, 6).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_precision_is_explicit_or_timed() -> None:
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("auto", CPU) in ("bf16", "fp32")
    assert 0.01 < measure_bf16_speedup() < 100
    assert measure_matmul_flops("fp32") > 1e8


def test_a_step_count_lies_where_its_kernel_wants_it() -> None:
    """A fused kernel reads it beside the weights, as on a GPU; any other one on the CPU."""
    model = torch.nn.Linear(2, 2)
    updater = Updater(model, lambda _: 0.1, weight_decay=0.0, clip=1.0)
    model(torch.ones(1, 2)).sum().backward()
    updater.apply(0, [p.grad for p in model.parameters() if p.grad is not None])
    saved = updater.state_tensors()
    for fused, device in ((True, "meta"), (False, "cpu")):
        elsewhere = torch.nn.Linear(2, 2, device="meta")
        other = Updater(
            elsewhere, lambda _: 0.1, weight_decay=0.0, clip=1.0, optimizer=lambda g: torch.optim.AdamW(g)
        )
        other.optimizer.defaults["fused"] = fused
        other.load_state_tensors(saved)
        state = other.optimizer.state[elsewhere.weight]
        assert (state["step"].device.type, state["exp_avg"].device.type) == (device, "meta")


@pytest.mark.parametrize("training", [True, False])
def test_all_of_a_network_is_in_training_whatever_it_was_before(training: bool) -> None:
    inner = Encoder(make_pair()[1].config).train(training)
    model = ElasticEncoder(inner)
    step = FinetuneStep(model, updater(model), precision="fp32", device=CPU)
    for _ in range(2):
        step(0, make_batch())
        assert all(module.training for module in model.modules())
        model.eval()

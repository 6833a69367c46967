"""The fast step of slices beside the slow, obvious one: autograd's gradients, AdamW written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture, enclosing_architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.slicing import WORD_EMBEDDING, SlicedGradients
from raycomp.search.space import SearchSpace
from raycomp.training.hints import LABELS_ONLY
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import LinearDecay, Updater
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep
from tests.unit.encoder.test_elastic import make_batch, make_pair

CPU = torch.device("cpu")
SPACE = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))
RATE = LinearDecay(1e-2, 0.1, (0, 20))
DECAY, CLIP = 0.1, 0.5


class Drawn:
    """Two random architectures a step."""

    def __init__(self, *archs: Architecture) -> None:
        self.archs = list(archs)

    def ask(self, step: int) -> list[Architecture]:
        rng = np.random.default_rng(step)
        return self.archs or [SPACE.sample_uniform(rng) for _ in range(2)]

    def tell(self, step: int, losses: Any) -> None:
        pass

    def info(self, step: int) -> dict[str, Any]:
        return {}


def network() -> ElasticEncoder:
    """In fp64: Adam blows rounding up where a gradient is 0 by nature, as a key's bias has it."""
    model = make_pair()[1].double()
    model.set_dropout(0.0)
    return model


def step_of(model: ElasticEncoder, sampler: Any = None, reduce: Any = None) -> SupernetStep:
    return SupernetStep(
        model, sampler or Drawn(),
        SliceUpdater(model, RATE, weight_decay=DECAY, clip=CLIP, reduce=reduce),
        teacher=None, objective=LABELS_ONLY, precision="fp32", device=CPU,
    )  # fmt: skip


def autograd_gradients(
    model: ElasticEncoder, archs: list[Architecture], batch: Batch
) -> dict[str, Tensor]:
    """The mean loss's gradients by autograd alone: zeros outside the slices."""
    model.zero_grad()
    for arch in archs:
        loss = label_loss(model(batch, arch).logits, batch.labels, batch.total)
        (loss / len(archs)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def obvious(model: ElasticEncoder, moments: dict[str, Any], step: int, batch: Batch) -> None:
    """AdamW as its paper has it, on the slices of the step and the words of the batch."""
    archs = Drawn().ask(step)
    found = autograd_gradients(model, archs, batch)
    active: dict[str, Any] = dict(model.active_parameters(enclosing_architecture(archs)))
    active[WORD_EMBEDDING] = (batch.input_ids.unique(),)
    norm = sum(float(found[n][w].double().square().sum()) for n, w in active.items()) ** 0.5
    scale = min(1.0, CLIP / (norm + 1e-6))
    for name, where in active.items():
        p = dict(model.named_parameters())[name].data
        m, v, t = moments.setdefault(name, [torch.zeros_like(p), torch.zeros_like(p), 0])
        moments[name][2] = t = t + 1
        g = found[name][where] * scale
        m[where] = 0.9 * m[where] + 0.1 * g
        v[where] = 0.999 * v[where] + 0.001 * g * g
        if p.ndim >= 2:
            p[where] *= 1 - RATE(step) * DECAY
        ready = (v[where] / (1 - 0.999**t)).sqrt() + 1e-8
        p[where] -= RATE(step) * (m[where] / (1 - 0.9**t)) / ready


def test_steps_of_slices_are_adamw_on_what_they_used_and_nothing_else() -> None:
    ours, theirs = network(), network()
    step, moments = step_of(ours), dict[str, Any]()
    for index in range(8):
        batch = make_batch(seed=index)
        before = {n: p.detach().clone() for n, p in ours.named_parameters()}
        step(index, batch)
        obvious(theirs, moments, index, batch)
        active = dict(ours.active_parameters(enclosing_architecture(Drawn().ask(index))))
        for name, p in ours.named_parameters():
            still = torch.ones_like(p, dtype=torch.bool)
            if name in active:
                still[active[name]] = False
            if name == WORD_EMBEDDING:
                still[:] = True
                still[batch.input_ids.unique()] = False
            assert torch.equal(p[still], before[name][still]), name
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7), name


def test_where_a_step_uses_everything_it_is_torch_s_adamw() -> None:
    ours, theirs = network(), network()
    step = step_of(ours, Drawn(SPACE.largest()))
    plain = Updater(theirs, RATE, weight_decay=DECAY, clip=CLIP)
    batch = make_batch()
    batch.input_ids[:] = (
        torch.arange(55).view(5, 11) % 24 + 1
    )  # rows of the table that are not read differ
    for index in range(5):
        step(index, batch)
        label_loss(theirs(batch).logits, batch.labels, batch.total).backward()
        plain.apply(index, [])
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        rows = slice(1, 25) if name == WORD_EMBEDDING else slice(None)
        assert torch.allclose(a[rows], b[rows], atol=1e-7), name


@pytest.mark.parametrize("seed", range(6))
def test_gradients_in_place_are_autograd_s(seed: int) -> None:
    plain, fast = network(), network()
    fast.use_column_major_layout()
    rng, batch = np.random.default_rng(seed), make_batch(seed=seed)
    archs = [SPACE.sample_uniform(rng) for _ in range(3)]
    expected, active = (
        autograd_gradients(plain, archs, batch),
        fast.active_parameters(enclosing_architecture(archs)),
    )
    named = dict(fast.named_parameters())
    gradients = SlicedGradients(fast)
    gradients.prepare(fast.active_parameters(SPACE.largest()))
    gradients.flat.fill_(7.0)  # what an earlier, larger step left
    memory = gradients.flat.data_ptr()
    gradients.prepare(active, extra=6)
    assert gradients.flat.data_ptr() == memory
    for arch in archs:
        loss = label_loss(fast(batch, arch, slices=gradients).logits, batch.labels, batch.total)
        (loss / len(archs)).backward()
    assert not gradients.extra.any()
    views = [used.gradient for used in gradients.used]
    assert gradients.flat.numel() == sum(v.numel() for v in views) + 6
    for (name, where), view in zip(active, views, strict=True):
        assert torch.allclose(view, expected[name][where], atol=1e-7), name
        assert view.stride() == named[name][where].stride() or 1 in view.shape, name
        outside = expected[name].clone()
        outside[where] = 0
        assert not outside.any()
    assert fast.layers[0].down.weight.t().is_contiguous()
    assert torch.allclose(fast(batch, archs[0]).logits, plain(batch, archs[0]).logits, atol=1e-12)
    gradients.release()
    assert all(parameter.grad is None for parameter in fast.parameters())


def test_workers_that_share_a_batch_sum_to_one_worker_with_all_of_it() -> None:
    """Rows of the word table too, although neither worker reads all of them."""
    whole = replace(make_batch(rows=6), total_tokens=99)
    words = torch.cat([whole.input_ids.unique(), torch.tensor([0])]).unique()
    models, sent = [network() for _ in range(3)], [list[list[Tensor]](), list[list[Tensor]]()]

    def shard(rows: np.ndarray) -> Batch:
        keys = ("input_ids", "attention_mask", "token_type_ids", "labels")
        return replace(whole, **{k: getattr(whole, k)[rows] for k in keys}, words=words)

    shards = [shard(np.arange(0, 6, 2)), shard(np.arange(1, 6, 2))]
    assert len(shards[0].input_ids.unique()) < len(words)

    def record(rank: int) -> Any:
        return lambda tensors: sent[rank].append([t.clone() for t in tensors])

    def summed(tensors: list[Tensor]) -> None:
        for tensor, other in zip(tensors, sent[0][-1], strict=True):
            tensor.add_(other)

    step_of(models[2])(0, whole)
    step_of(models[0], reduce=record(0))(0, shards[0])
    step_of(models[1], reduce=summed)(0, shards[1])
    for (name, a), b in zip(models[1].named_parameters(), models[2].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7), name


def test_a_step_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    one, two = network(), network()
    step = step_of(one)
    for index in range(4):
        step(index, make_batch(seed=index))
    again = step_of(two)
    two.load_state_dict({k: v.contiguous() for k, v in one.state_dict().items()})
    again.updater.load_state_tensors({k: v.clone() for k, v in step.updater.state_tensors().items()})
    for index in range(4, 8):
        for s in (step, again):
            s(index, make_batch(seed=index))
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_words_that_are_frozen_stay() -> None:
    model = network()
    model.embeddings.word.weight.requires_grad_(False)
    before = model.embeddings.word.weight.clone()
    step = step_of(model)
    for index in range(2):
        step(index, make_batch(seed=index))
    assert torch.equal(model.embeddings.word.weight, before)
    assert model.embeddings.word.weight.grad is None

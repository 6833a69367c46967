"""P_alpha learns from rows that the weights do not see, from several structures in each update."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.data.tokens import TokenSplit
from raycomp.methods.adabert.held_out import HeldOutBatches, HeldOutUpdates, split_rows
from raycomp.methods.adabert.noise_band import AlphaUpdates, entropy_on_noise, noise_band
from raycomp.methods.adabert.step import SearchStep
from raycomp.methods.adabert.structure import OPERATIONS
from raycomp.training.optimizers import Updater
from tests.unit.methods.adabert.builders import CPU, make_batch, make_search_step


def as_tokens() -> TokenSplit:
    """Return the rows of `make_batch` as a split."""
    batch = make_batch()
    lengths = batch.attention_mask.sum(1).numpy()
    ids = batch.input_ids[batch.attention_mask].numpy().astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenSplit("", ids, np.zeros(len(ids), np.int8), offsets, batch.labels.numpy())


def make_step(structures: int, updates: int, **options: Any) -> SearchStep:
    """Return a search step whose P_alpha learns from rows 12 to 15 and others."""
    step = make_search_step(**options)
    adam = functools.partial(torch.optim.Adam, betas=(0.5, 0.999))
    alpha = Updater(step.distribution, lambda index: 0.05, weight_decay=0.0, clip=1e9, optimizer=adam)
    batches = HeldOutBatches(as_tokens(), np.arange(8, 16), 8, structures, 3, 0, CPU)
    step.held_out = HeldOutUpdates(
        step.parent, step.distribution, alpha, batches, updates=updates, estimator=step.estimator
    )
    return step


class Recorder:
    """An updater that keeps the gradients of each update and changes nothing."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.updates: list[list[torch.Tensor]] = []

    def apply(self, step: int, touched: list[torch.Tensor], extra: Any = None) -> None:
        self.updates.append([gradient.clone() for gradient in touched])
        for parameter in self.model.parameters():
            parameter.grad = None


def recorded(step: SearchStep, rank: int = 0, world: int = 1) -> list[list[torch.Tensor]]:
    """Return the gradients of P_alpha in the updates that follow one step."""
    assert step.held_out is not None
    recorder = Recorder(step.distribution)
    step.held_out.updater = recorder  # type: ignore[assignment]
    step.held_out.rank = rank
    step.held_out.world = world
    step.held_out.run(0, 1.0, 1000, step.held_out_loss)
    return recorder.updates


def test_new_sentences_follow_their_source_row() -> None:
    sources = np.concatenate([np.arange(40), np.repeat(np.arange(40), 3)])
    weights, held_out = split_rows(sources, 0.25, seed=0)
    assert len(held_out) == 10
    assert held_out.max() < 40  # given rows only
    assert set(sources[weights]) == set(range(40)) - set(held_out.tolist())
    assert len(weights) == 30 * 4
    assert not np.array_equal(held_out, split_rows(sources, 0.25, seed=1)[1])


@pytest.mark.parametrize(("rows", "share"), [(2, 0.01), (2, 0.99), (5, 0.5)])
def test_both_parts_have_rows(rows: int, share: float) -> None:
    weights, held_out = split_rows(np.arange(rows), share, seed=0)
    assert len(weights) >= 1
    assert len(held_out) >= 1
    assert len(weights) + len(held_out) == rows


def test_the_updates_change_p_alpha_and_no_weight() -> None:
    step = make_step(structures=2, updates=3)
    assert step.held_out is not None
    before = [p.clone() for p in step.parent.parameters()]
    step.held_out.run(0, 1.0, 1000, step.held_out_loss)
    assert all(torch.equal(old, new) for old, new in zip(before, step.parent.parameters(), strict=True))
    assert all(p.requires_grad for p in step.parent.parameters())
    assert step.distribution.operations.abs().sum() > 0
    assert len(recorded(make_step(structures=2, updates=3))) == 3


def test_weights_and_p_alpha_learn_in_turns() -> None:
    """The pass of the weights leaves P_alpha as it is, and it learns only after the warm-up."""
    step = make_step(structures=2, updates=1, alpha_warmup_steps=2)
    entropies = [float(step(i, make_batch()).info["entropy"]) for i in range(4)]
    assert entropies[:2] == pytest.approx([1.0, 1.0])
    assert entropies[3] < entropies[2] < 1.0
    assert step.distribution.layers.grad is None


def test_the_gradient_is_the_mean_over_the_structures() -> None:
    step = make_step(structures=4, updates=1, beta=40.0)
    assert step.held_out is not None
    mean = recorded(step)[0]
    parts = step.held_out.batches.parts(0)
    assert [len(part.labels) for part in parts] == [2, 2, 2, 2]
    assert set(np.concatenate([part.index for part in parts])) == set(range(8, 16))

    single = []
    for number, part in enumerate(parts):
        sample = step.distribution.sample(1.0, 1000 + number)
        loss = step.held_out_loss(sample, part, 1000 + number)
        single.append(torch.autograd.grad(loss, list(step.distribution.parameters())))
    for gradient, *others in zip(mean, *single, strict=True):
        torch.testing.assert_close(gradient, torch.stack(others).mean(0))


@pytest.mark.parametrize("world", [2, 5])
def test_the_workers_share_the_structures(world: int) -> None:
    """Summed over the workers, the gradients are those of one worker; one of five has no structure."""
    alone = recorded(make_step(structures=4, updates=2))
    parts = [recorded(make_step(structures=4, updates=2), rank, world) for rank in range(world)]
    for number, gradients in enumerate(alone):
        for i, gradient in enumerate(gradients):
            total = torch.stack([part[number][i] for part in parts]).sum(0)
            torch.testing.assert_close(gradient, total)


def test_p_alpha_learns_what_the_held_out_loss_says() -> None:
    """A price on size makes small structures likely; the mutant with the sign reversed is rejected."""

    def depth_after(sign: float) -> float:
        step = make_step(structures=2, updates=4, beta=sign * 4000.0)
        assert step.held_out is not None
        for index in range(3):
            step.held_out.run(index, 1.0, 1000, step.held_out_loss)
        shares = torch.softmax(step.distribution.layers.detach(), -1)
        return float(shares @ torch.arange(1.0, 4.0))

    assert depth_after(1.0) < 1.8
    assert depth_after(-1.0) > 2.2


def alpha_updates(count: int, estimator: str = "contrast", structures: int = 1) -> AlphaUpdates:
    return AlphaUpdates(3, 3, OPERATIONS, structures, estimator, 0.05, (1.0,) * count)


@pytest.mark.parametrize("estimator", ["sampled", "contrast", "full"])
def test_noise_lowers_the_entropy_and_the_band_holds_it(estimator: str) -> None:
    entropies = entropy_on_noise(alpha_updates(60, estimator), seeds=20)
    assert entropies.shape == (60, 20)
    assert entropies[0].min() > 0.99
    assert entropies[-1].max() < entropies[0].min()
    band = noise_band(alpha_updates(60, estimator))
    assert len(band) == 60
    inside = [low <= mean <= high for (low, high), mean in zip(band, entropies.mean(1), strict=True)]
    assert all(inside)


def test_a_search_on_noise_ends_inside_the_band_and_one_with_a_signal_below_it() -> None:
    """The loss of a structure is a random number, or the number of its convolutions."""

    def entropy_after(signal: float) -> float:
        step = make_step(structures=2, updates=20)
        assert step.held_out is not None
        generator = torch.Generator().manual_seed(0)

        def loss_of(sample: Any, batch: Any, seed: int) -> torch.Tensor:
            noise = torch.randn(sample.operations.shape, generator=generator)
            noise[:, :6] += signal
            depths = torch.randn(sample.layers.shape, generator=generator)
            return (sample.operations * noise).sum() + (sample.layers * depths).sum()

        for index in range(5):
            step.held_out.run(index, 1.0, 1000, loss_of)
        return step.distribution.normalised_entropy()

    low, high = noise_band(alpha_updates(100, "full", structures=2))[-1]
    assert low < entropy_after(0.0) < high
    assert entropy_after(3.0) < low

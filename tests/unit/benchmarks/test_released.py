"""The peer of claim `epoch` has the logits of our encoder, and updates every parameter."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.released import ReleasedSupernet
from raycomp.encoder.architecture import Architecture
from raycomp.search.space import SearchSpace
from tests.unit.encoder.test_elastic import make_batch, make_pair

SPACE = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32, 64))


def test_a_slice_has_the_logits_of_our_encoder() -> None:
    bert, elastic = make_pair()
    released, batch, rng = ReleasedSupernet(bert), make_batch(), np.random.default_rng(0)
    bert.eval()
    for arch in [SPACE.sample_uniform(rng) for _ in range(6)]:
        released.select(arch)
        gap = (released.logits(batch) - elastic(batch, arch).logits).abs().max()
        assert gap < 1e-5, arch


def test_a_step_updates_every_parameter_and_has_dense_gradients() -> None:
    bert, _ = make_pair()
    released, batch = ReleasedSupernet(bert), make_batch()
    largest, small = SPACE.largest(), Architecture(1, (1,), (16,))
    released.step(batch, [largest, largest])
    before = [p.detach().clone() for p in released.parameters]
    released.step(batch, [small, small])
    moved = [bool((p != b).any()) for p, b in zip(released.parameters, before, strict=True)]
    layers = torch.nn.ModuleList(released.layers[1:])
    assert all(bool((p.grad == 0).all()) for p in layers.parameters())  # not used, and not left out
    assert all(moved)  # the moments of the first step move what the second did not use

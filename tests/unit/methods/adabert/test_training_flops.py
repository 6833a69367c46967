"""FLOPs of AdaBERT's training steps, against those that torch counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raycomp.data.batches import Batch
from raycomp.methods.adabert.efficiency import training_flops
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child, Parent
from tests.unit.methods.adabert.builders import SHAPE, make_batch

CONVOLUTIONS = ("std_conv_3", "std_conv_5")
WIDE = replace(SHAPE, embedding_size=64, width=16, classes=3)
"""The projection of the embeddings costs about as much as a convolution."""


def make_full_batch() -> Batch:
    """Return texts without padding: padding is computed, but it is not counted."""
    batch = make_batch()
    ids = batch.input_ids.clamp(min=4)
    return replace(batch, input_ids=ids, attention_mask=ids > 0, total_tokens=ids.numel())


def test_the_flops_of_a_child_s_step_are_those_that_torch_counts() -> None:
    torch.manual_seed(0)
    batch = make_full_batch()
    structure = Structure(2, ("std_conv_3", *("skip",) * 8))
    child = Child(WIDE, structure).train()
    with FlopCounterMode(display=False) as counter:
        logits, probes = child(batch.input_ids, batch.attention_mask)
        (logits.square().sum() + probes.square().sum()).backward()
    assert training_flops(child, structure, batch) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_the_flops_of_a_search_step_are_those_that_torch_counts(estimator: str) -> None:
    torch.manual_seed(0)
    batch = make_full_batch()
    parent = Parent(WIDE, 3, 1, CONVOLUTIONS, share=False).train()
    distribution = Distribution(3, 1, CONVOLUTIONS)
    samples = (distribution.sample(1.0, seed) for seed in range(100))
    sample = next(sample for sample in samples if sample.structure.layers == 2)
    with FlopCounterMode(display=False) as counter:
        logits, probes = parent(batch.input_ids, batch.attention_mask, sample, estimator)
        trained = [*logits[:2], *probes[:2]]
        torch.cat(trained).square().sum().backward()
    flops = training_flops(parent, sample.structure, batch, estimator)
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    # Without gradients of weights, the projection of the embeddings runs forward only.
    frozen = training_flops(parent, sample.structure, batch, estimator, trains_weights=False)
    assert frozen < flops

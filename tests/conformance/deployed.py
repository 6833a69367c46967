"""Small networks that the suites of formats export."""

from __future__ import annotations

from typing import Any

import torch

from raycomp.encoder.architecture import Architecture
from raycomp.methods.adabert.compiler import compile_child
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child, StudentShape
from tests.unit.encoder.test_elastic import make_batch, make_pair
from tests.unit.methods.adabert.builders import EXACT_MATCH, ONE_TEXT, perturb

# Two of three layers lack one half.
ARCH = Architecture(3, (0, 4, 2), (32, 0, 64))
CELL = ("std_conv_3", "max_pool_3", "avg_pool_3", *("skip",) * 6)
# A convolution ends at the attentive sum; ONNX Runtime merged its transposition into the sum's product.
FUSED_CELL = (
    "max_pool_3", "max_pool_3", "dil_conv_3", "dil_conv_5", "zero",
    "skip", "std_conv_7", "avg_pool_3", "std_conv_5",
)  # fmt: skip
CNN_SHAPES = {"one text": ONE_TEXT, "pair": EXACT_MATCH}


def make_encoder() -> Any:
    return make_pair()[1].extract(ARCH).eval()


def make_cnn(shape: StudentShape, cell: tuple[str, ...] = CELL) -> Any:
    torch.manual_seed(0)
    child = Child(shape, Structure(1, cell)).eval()
    perturb(child)
    return compile_child(child).eval()


def calibration() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    batches = [make_batch(rows=8, seed=seed) for seed in range(3)]
    return [(b.input_ids, b.attention_mask.long(), b.token_type_ids) for b in batches]

"""Measured latency of a network, as a user would meet it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


@torch.inference_mode()
def p50_latency_ms(
    forward: Callable[[Tensor, Tensor], object],
    vocab_size: int,
    *,
    length: int,
    batch: int = 1,
    runs: int = 30,
    warmup: int = 5,
    device: torch.device | None = None,
) -> float:
    """Return the median milliseconds of one forward pass.

    Args:
        forward: takes input_ids and attention_mask, both (batch, length).
        vocab_size: tokens are drawn below it.
        length: tokens a sequence, all real.
        batch: sequences a pass.
        runs: measured passes.
        warmup: passes before, not measured.
        device: where the network is.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab_size, (batch, length), generator=generator).to(device)
    mask = torch.ones_like(ids)
    taken: list[float] = []
    for i in range(warmup + runs):
        _wait(device)
        began = time.perf_counter()
        forward(ids, mask)
        _wait(device)
        if i >= warmup:
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

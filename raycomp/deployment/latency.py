"""Measured latency of a network, as a user would meet it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@torch.inference_mode()
def measure_latencies_ms(
    forwards: Sequence[Callable[[Tensor, Tensor], object]],
    vocab_size: int,
    *,
    length: int,
    batch: int = 1,
    runs: int = 40,
    warmup: int = 5,
    device: torch.device | None = None,
) -> list[float]:
    """Return the median milliseconds of one forward pass of each network.

    The networks take turns, so that what else the machine does falls on all of them alike: their
    ratios can be trusted more than the figures.

    Args:
        forwards: each takes input_ids and attention_mask, both (batch, length).
        vocab_size: tokens are drawn below it.
        length: tokens a sequence, all real.
        batch: sequences a pass.
        runs: measured passes of each.
        warmup: passes before, not measured.
        device: where the networks are.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab_size, (batch, length), generator=generator).to(device)
    mask = torch.ones_like(ids)
    taken: list[list[float]] = [[] for _ in forwards]
    for i in range(warmup + runs):
        for forward, times in zip(forwards, taken, strict=True):
            _wait(device)
            began = time.perf_counter()
            forward(ids, mask)
            _wait(device)
            if i >= warmup:
                times.append((time.perf_counter() - began) * 1000)
    return [statistics.median(times) for times in taken]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

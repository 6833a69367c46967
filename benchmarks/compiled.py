"""What torch.compile of a layer brings, shape by shape, and what compiling costs.

    python -m benchmarks.compiled [--device cuda] [--runs 5]

A super-network meets other widths at every step, so each compiled layer serves one of many shapes.
Three cases, each compiled beside eager in turns: a network cut to half of the encoder as it is deployed,
the same in training, and a pass of the super-network over several architectures, as the search scores
them. Printed are seconds of both, their ratio, the seconds of the first call, and calls until that is
repaid.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import RUNS, measure_pair, timed
from benchmarks.workload import demo_context, half_size_architectures, plain_step, training_batches
from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.training.optimizers import autocast, resolve_precision

SHAPES = 512
"""Compiled variants that torch may keep; without, it stops compiling after eight."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="one small batch: shows that all works")
    args = parser.parse_args()
    torch._dynamo.config.recompile_limit = SHAPES
    device, context = torch.device(args.device), demo_context()
    precision = resolve_precision("auto", device)
    rows = 8 if args.quick else 128 if device.type == "cuda" else 32
    held = training_batches(context, rows, 1, device)[0]
    archs = half_size_architectures(context, 2 if args.quick else 16)
    network = context.network().to(device).eval()
    small = network.extract(archs[0]).to(device)
    print(f"{'case':<44} {'eager':>9} {'compiled':>9} {'ratio':>6} {'first':>7} {'repaid after':>13}")
    report = _Report(args.runs, device)
    report(
        "half network, forward", forward(small, held, precision), forward(layers(small), held, precision)
    )
    other = layers(copy.deepcopy(small))
    report("half network, training step", train(small, held, precision), train(other, held, precision))
    report(
        f"super-network, {len(archs)} architectures scored", many(network, held, precision, archs),
        many(half_layers(network), held, precision, archs),
    )  # fmt: skip


class _Report:
    """Times a pair and prints its line."""

    def __init__(self, runs: int, device: torch.device) -> None:
        self.runs, self.device = runs, device

    def __call__(self, name: str, eager: Callable[[], object], compiled: Callable[[], object]) -> None:
        began = time.perf_counter()
        compiled()
        first = time.perf_counter() - began
        pair = measure_pair(
            timed(lambda: [compiled() for _ in range(5)], self.device),
            timed(lambda: [eager() for _ in range(5)], self.device),
            self.runs,
        )
        fast, slow = (sorted(side)[len(side) // 2] / 5 for side in (pair.a, pair.b))
        repaid = f"{first / (slow - fast):,.0f} calls" if slow > fast else "never"
        print(
            f"{name:<44} {1e3 * slow:>6.2f} ms {1e3 * fast:>6.2f} ms {pair.ratio:>6.2f} {first:>5.1f} s "
            f"{repaid:>13}",
            flush=True,
        )


def layers(model: Any) -> Any:
    """Return a copy of a static network whose layers are compiled, each for the shapes it meets."""
    made = copy.deepcopy(model)
    made.layers = nn.ModuleList(torch.compile(layer) for layer in made.layers)
    return made


def half_layers(network: ElasticEncoder) -> ElasticEncoder:
    """Return a copy of a super-network whose half layers are compiled, each for the widths it meets."""
    made: Any = copy.deepcopy(network)
    made._attention = torch.compile(made._attention)
    made._feed_forward = torch.compile(made._feed_forward)
    return made


def forward(model: Any, batch: Batch, precision: str) -> Callable[[], Tensor]:
    """Return a forward pass of a static network."""
    model.eval()

    @torch.no_grad()
    def work() -> Tensor:
        with autocast(precision, batch.input_ids.device):
            return model(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits

    return work


def train(model: Any, batch: Batch, precision: str) -> Callable[[], None]:
    """Return a training step of a static network."""
    step = plain_step(model, precision, batch.input_ids.device)

    def work() -> None:
        model.train()
        step(batch)

    return work


def many(network: ElasticEncoder, batch: Batch, precision: str, archs: Any) -> Callable[[], Tensor]:
    """Return one pass over several architectures."""

    @torch.no_grad()
    def work() -> Tensor:
        with autocast(precision, batch.input_ids.device):
            return network.forward_many(batch, archs)

    return work


if __name__ == "__main__":
    main()

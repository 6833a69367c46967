"""What torch.compile of a layer gains for each shape, and what compiling costs.

    python -m benchmarks.compiled [--device cuda] [--runs 5] [--quick]

A super-network has other widths in each step, so a compiled layer serves only one of many shapes. Each
case compares compiled and eager layers in turns: the forward pass of a network cut to half of the
encoder, its training step, and a pass of the super-network over several architectures, as the search
scores them. Prints the seconds of both, their ratio, the seconds of the first call, and the number of
calls after which compiling is repaid. Takes some minutes.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import RUNS, make_parser, measure_pair, timed
from benchmarks.workload import demo_context, half_size_architectures, plain_step, training_batches
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.training.optimizers import autocast, resolve_precision

# Number of compiled variants that torch may keep. By default it stops compiling after eight.
MAX_VARIANTS = 512
CALLS_PER_RUN = 5


def main() -> None:
    """Measure the three cases and print a line for each."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="one small batch: shows that all works")
    args = parser.parse_args()

    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    device = torch.device(args.device)
    precision = resolve_precision("auto", device)
    context = demo_context()
    rows = 8 if args.quick else 32
    if device.type == "cuda" and not args.quick:
        rows = 128
    (batch,) = training_batches(context, rows, 1, device)
    archs = half_size_architectures(context, 2 if args.quick else 16)
    network = context.network().to(device).eval()
    small = network.extract(archs[0]).to(device)

    print(f"{'case':<44} {'eager':>9} {'compiled':>9} {'ratio':>6} {'first':>7} {'repaid after':>13}")
    compare(
        "half network, forward",
        forward_pass(small, batch, precision),
        forward_pass(with_compiled_layers(small), batch, precision),
        args.runs,
        device,
    )
    compare(
        "half network, training step",
        training_step(copy.deepcopy(small), batch, precision),
        training_step(with_compiled_layers(small), batch, precision),
        args.runs,
        device,
    )
    compare(
        f"super-network, {len(archs)} architectures scored",
        forward_pass_of_many(network, batch, precision, archs),
        forward_pass_of_many(with_compiled_half_layers(network), batch, precision, archs),
        args.runs,
        device,
    )


def compare(
    name: str,
    eager: Callable[[], object],
    compiled: Callable[[], object],
    runs: int,
    device: torch.device,
) -> None:
    """Time both sides in turns, and print a line."""
    started = time.perf_counter()
    compiled()
    first_seconds = time.perf_counter() - started

    pair = measure_pair(
        timed(lambda: [compiled() for _ in range(CALLS_PER_RUN)], device),
        timed(lambda: [eager() for _ in range(CALLS_PER_RUN)], device),
        runs,
    )
    compiled_seconds = statistics.median_high(pair.a) / CALLS_PER_RUN
    eager_seconds = statistics.median_high(pair.b) / CALLS_PER_RUN
    repaid = "never"
    if eager_seconds > compiled_seconds:
        repaid = f"{first_seconds / (eager_seconds - compiled_seconds):,.0f} calls"
    print(
        f"{name:<44} {1e3 * eager_seconds:>6.2f} ms {1e3 * compiled_seconds:>6.2f} ms {pair.ratio:>6.2f} "
        f"{first_seconds:>5.1f} s {repaid:>13}",
        flush=True,
    )


def with_compiled_layers(model: Any) -> Any:
    """Return a copy of a static network whose layers are compiled."""
    compiled = copy.deepcopy(model)
    compiled.layers = nn.ModuleList(torch.compile(layer) for layer in compiled.layers)
    return compiled


def with_compiled_half_layers(network: ElasticEncoder) -> ElasticEncoder:
    """Return a copy of a super-network whose half layers (attention and FFN) are compiled."""
    compiled: Any = copy.deepcopy(network)
    compiled._run_half = torch.compile(compiled._run_half)
    return compiled


def forward_pass(model: Any, batch: Batch, precision: str) -> Callable[[], Tensor]:
    """Return a function that runs the forward pass of a static network."""
    model.eval()

    @torch.no_grad()
    def run() -> Tensor:
        with autocast(precision, batch.input_ids.device):
            return model(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits

    return run


def training_step(model: Any, batch: Batch, precision: str) -> Callable[[], None]:
    """Return a function that runs a training step of a static network."""
    step = plain_step(model, precision, batch.input_ids.device)

    def run() -> None:
        model.train()
        step(batch)

    return run


def forward_pass_of_many(
    network: ElasticEncoder, batch: Batch, precision: str, archs: list[Architecture]
) -> Callable[[], Tensor]:
    """Return a function that runs one forward pass over several architectures."""

    @torch.no_grad()
    def run() -> Tensor:
        with autocast(precision, batch.input_ids.device):
            return network.forward_many(batch, archs)

    return run


if __name__ == "__main__":
    main()

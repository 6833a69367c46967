"""Predicted against measured latency of random networks that the profile has not seen.

    python -m benchmarks.latency_prediction [--model demo/minilm-l6] [--runtime onnxruntime-int8]
        [--threads 2] [--batch 1] [--length 64] [--networks 30] [--percentile 50] [--as-certificate]

The space is that of a job with a latency budget. The networks of the profile, and random ones that it
does not know, are exported with random weights and timed in turns with one reference network, in one
process. With `--as-certificate`, the random networks have whole word tables and are timed by a wall clock
in groups of three, as the files of an export are. The table at the end compares predictions from the same
times:

    layers           the sum of the layers, corrected by a line: what raycomp uses
    layers, depth    the same, with a time per layer that the whole networks show
    whole networks   a linear function of depth, heads and neurons, fitted on whole networks only
    FLOPs            a line over FLOPs, fitted on whole networks only: what a user without a profile has
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import make_parser
from raycomp.config.loader import parse_job
from raycomp.deployment.cpu import describe_load, describe_machine, pinned_to_cpus
from raycomp.deployment.format_settings import FormatSettings
from raycomp.deployment.network_bench import NetworkBench
from raycomp.deployment.network_files import NetworkFiles
from raycomp.deployment.runtimes import open_session, session_forward
from raycomp.deployment.timing import time_in_turns
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.encoder.device_table import Conditions, DeviceTable
from raycomp.encoder.layers import EncoderConfig
from raycomp.encoder.pretrained import load_config
from raycomp.runtime.pipeline.device_profiles import open_files, plan_profiles
from raycomp.search.device_budgets import quantity_of
from raycomp.search.setup import make_space

TARGETS = (0.03, 0.08)
"""Largest median and largest 95th percentile of the relative error with which the claim holds."""

CERTIFIED_FILES = 3
"""Files that are timed in turns with `--as-certificate`; an export for INT8 has three."""

SEED = 1
"""The profile draws its networks with seed 0."""

LAYERS = "layers"
"""Name of the prediction that raycomp uses."""

Predict = Callable[[Architecture], float]


def main() -> None:
    """Measure, predict, and print one line per network and one per kind of prediction."""
    args = parse_arguments()
    if load := describe_load():
        print(f"Warning: {load}")

    job = parse_job(make_job(args))
    config = load_config(args.model)
    (task,) = plan_profiles(job, config, job.budget).values()
    print(f"{describe_machine(args.threads)['model']}; {task.conditions.describe()}", flush=True)

    networks = draw_networks(job, config, args.networks, set(task.networks))
    quantity = quantity_of(job.budget[0], "latency_ms")
    with pinned_to_cpus(args.threads), open_files([task]) as files:
        bench = NetworkBench(
            config, task.conditions, files, lambda done, total: print(f"{done}/{total}", flush=True)
        )
        table = task.measure(bench=bench)
        if args.as_certificate:
            measured = time_as_certificates(files, networks, task.conditions, config.vocab_size, quantity)
        else:
            measured = [entry.measured()[quantity] for entry in bench.measure(networks)]

    predictions = fit_predictions(
        table, quantity, CostModel(EncoderShape.from_config(config), args.length)
    )
    for arch, time in zip(networks, measured, strict=True):
        predicted = predictions[LAYERS](arch)
        print(
            f"{predicted:9.3f} ms predicted  {time:9.3f} ms measured  {predicted / time - 1:+7.1%}  "
            f"{arch.to_json()}"
        )
    for line in format_errors(predictions, networks, measured):
        print(line)


def time_as_certificates(
    files: NetworkFiles,
    networks: Sequence[Architecture],
    conditions: Conditions,
    vocab_size: int,
    quantity: str,
) -> list[float]:
    """Return what a certificate would say of a quantity of networks, in milliseconds."""
    settings = FormatSettings((), (conditions.batch,), conditions.lengths, conditions.threads)
    measured: list[float] = []
    for start in range(0, len(networks), CERTIFIED_FILES):
        forwards = []
        for arch in networks[start : start + CERTIFIED_FILES]:
            with files.open(conditions.runtime, arch, has_all_rows=True) as path:
                forwards.append(session_forward(open_session(path, conditions.threads)))
        times = time_in_turns(forwards, settings, vocab_size, conditions.max_length)
        measured += [float(file.latencies[0].value(quantity) or math.nan) for file in times]
        print(f"{len(measured)}/{len(networks)}", flush=True)
    return measured


def fit_predictions(table: DeviceTable, quantity: str, costs: CostModel) -> dict[str, Predict]:
    """Return functions from a network to its predicted time, fitted on the networks of a profile.

    Args:
        table: The profile.
        quantity: "latency_ms" or "p95_ms".
        costs: Counts FLOPs.
    """
    line = table.line(quantity)

    def add_layers(arch: Architecture) -> float:
        return (table.predict(quantity, arch) - line.offset) / line.scale

    return {
        LAYERS: lambda arch: table.predict(quantity, arch),
        "layers, depth": _fit(table, quantity, lambda arch: [1, add_layers(arch), arch.depth]),
        "whole networks": _fit(
            table, quantity, lambda arch: [1, arch.depth, sum(arch.heads), sum(arch.ffn)]
        ),
        "FLOPs": _fit(table, quantity, lambda arch: [1, costs.cost("flops", arch)]),
    }


def _fit(
    table: DeviceTable, quantity: str, features: Callable[[Architecture], Sequence[float]]
) -> Predict:
    """Return the linear function of features with the smallest squared relative error."""
    rows = np.array([features(network.arch) for network in table.networks], float)
    times = np.array([network.measured[quantity] for network in table.networks])
    weights = np.linalg.lstsq(rows / times[:, None], np.ones_like(times), rcond=None)[0]
    return lambda arch: float(np.dot(weights, features(arch)))


def format_errors(
    predictions: dict[str, Predict], networks: Sequence[Architecture], measured: Sequence[float]
) -> list[str]:
    """Return a Markdown table of relative errors, and a line on the prediction that raycomp uses."""
    lines = ["| prediction | median error | 95th percentile | mean signed error |", "|---|--:|--:|--:|"]
    verdict = ""

    for name, predict in predictions.items():
        errors = np.array([predict(arch) for arch in networks]) / np.array(measured) - 1
        median, high = np.percentile(np.abs(errors), (50, 95))
        lines.append(f"| {name} | {median:.1%} | {high:.1%} | {np.mean(errors):+.1%} |")
        if name == LAYERS:
            is_met = median <= TARGETS[0] and high <= TARGETS[1]
            verdict = (
                f"{len(networks)} networks, targets {TARGETS[0]:.0%} (median) and {TARGETS[1]:.0%} (95th "
                f"percentile): {'holds' if is_met else 'does not hold'}"
            )
    return [*lines, verdict]


def make_job(args: argparse.Namespace) -> dict[str, Any]:
    """Return the job whose space and device are measured."""
    budget = {
        "name": "device",
        "latency_ms": "0.5x",
        "percentile": args.percentile,
        "runtime": args.runtime,
        "threads": args.threads,
        "batch": args.batch,
        "length": args.length,
    }
    return {"task": {"name": "demo/polarity"}, "model": {"name": args.model}, "budget": [budget]}


def draw_networks(
    job: Any, config: EncoderConfig, count: int, known: set[Architecture]
) -> list[Architecture]:
    """Return random networks of the job's space that the profile has not measured."""
    space = make_space(job, EncoderShape.from_config(config))
    rng = np.random.default_rng(SEED)
    networks: dict[Architecture, None] = {}
    while len(networks) < count:
        arch = space.sample_uniform(rng)
        if arch not in known:
            networks[arch] = None
    return list(networks)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="demo/minilm-l6", help="Encoder.")
    parser.add_argument("--runtime", default="onnxruntime-int8", help="Runtime.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of one operation.")
    parser.add_argument("--batch", type=int, default=1, help="Texts of a pass.")
    parser.add_argument("--length", type=int, default=64, help="Tokens of a text.")
    parser.add_argument("--networks", type=int, default=30, help="Random networks.")
    parser.add_argument(
        "--as-certificate", action="store_true", help="Time the networks as files of an export (ONNX)."
    )
    parser.add_argument("--percentile", type=int, default=50, choices=(50, 95), help="Percentile.")
    return parser.parse_args()


if __name__ == "__main__":
    main()

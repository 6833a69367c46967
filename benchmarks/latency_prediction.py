"""Predicted against measured latency of random networks that the profile has not seen.

    python -m benchmarks.latency_prediction [--model demo/minilm-l6] [--runtime onnxruntime-int8]
        [--threads 2] [--batch 1] [--length 64] [--networks 30] [--percentile 50]

The space is that of a job with a latency budget. The profile is made first. The networks are then
exported as files with random weights and measured as `raycomp profile` measures. The last line has the
median and the 95th percentile of the relative error. Stop other programs before.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from raycomp.config.loader import parse_job
from raycomp.deployment.cpu import describe_load, describe_machine
from raycomp.deployment.network_bench import NetworkBench
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.layers import EncoderConfig
from raycomp.encoder.pretrained import load_config
from raycomp.runtime.pipeline.device_profiles import plan_profiles
from raycomp.search.device_budgets import quantity_of
from raycomp.search.setup import make_space

TARGETS = (0.03, 0.08)
"""Largest median and largest 95th percentile of the relative error with which the claim holds."""

SEED = 1
"""The profile draws its networks with seed 0."""


def main() -> None:
    """Make the profile, measure the networks, and print one line per network and a summary."""
    args = parse_arguments()
    if load := describe_load():
        print(f"Warning: {load}")

    job = parse_job(make_job(args))
    config = load_config(args.model)
    (task,) = plan_profiles(job, config, job.budget).values()
    print(f"{describe_machine(args.threads)['model']}; {task.conditions.describe()}", flush=True)
    table = task.measure()

    networks = draw_networks(job, config, args.networks, set(task.networks))
    times = NetworkBench(config, task.conditions).measure(networks)
    quantity = quantity_of(job.budget[0], "latency_ms")
    errors = []
    for arch, entry in zip(networks, times, strict=True):
        predicted = table.predict(quantity, arch)
        measured = entry.measured()[quantity]
        errors.append(predicted / measured - 1)
        print(
            f"{predicted:9.3f} ms predicted  {measured:9.3f} ms measured  {errors[-1]:+7.1%}  "
            f"{arch.to_json()}",
            flush=True,
        )

    median, high = np.percentile(np.abs(errors), (50, 95))
    is_met = median <= TARGETS[0] and high <= TARGETS[1]
    print(
        f"{len(errors)} networks: median error {median:.1%} (target {TARGETS[0]:.0%}), 95th percentile "
        f"{high:.1%} (target {TARGETS[1]:.0%}), mean signed error {np.mean(errors):+.1%}: "
        f"{'holds' if is_met else 'does not hold'}"
    )


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/minilm-l6", help="Encoder.")
    parser.add_argument("--runtime", default="onnxruntime-int8", help="Runtime.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of one operation.")
    parser.add_argument("--batch", type=int, default=1, help="Texts of a pass.")
    parser.add_argument("--length", type=int, default=64, help="Tokens of a text.")
    parser.add_argument("--networks", type=int, default=30, help="Random networks.")
    parser.add_argument("--percentile", type=int, default=50, choices=(50, 95), help="Percentile.")
    return parser.parse_args()


if __name__ == "__main__":
    main()

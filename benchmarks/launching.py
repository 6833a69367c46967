"""Milliseconds of a training step without its arithmetic: Python, torch's calls, lists of slices.

    python -m benchmarks.launching [--runs 5]

On a GPU that computes a small encoder faster than Python launches its kernels, a step takes this time.
Measured on one CPU thread with a network of six layers whose matrices are too small to count: a sliced
step with one and with two architectures, over the extracted network in a plain loop, in turns. Takes
about half a minute.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from transformers import BertConfig

from benchmarks.measure import RUNS, PairedFigures, make_parser, measure_in_turns, timed
from benchmarks.workload import FixedSampler, make_supernet_step, plain_step
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import from_family_config
from raycomp.encoder.layers import Encoder

STEPS = 50
LAYERS = 6
CPU = torch.device("cpu")
ARCHITECTURES = [
    Architecture(LAYERS, (6,) * LAYERS, (48,) * LAYERS),
    Architecture(LAYERS, (4,) * LAYERS, (32,) * LAYERS),
]


def main() -> None:
    """Measure, and print milliseconds of a step and the ratio to the plain loop."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()

    torch.set_num_threads(1)
    network = make_tiny_network()
    batch = make_tiny_batch()
    plain = plain_step(network.extract(ARCHITECTURES[0]), "fp32", CPU)
    with_one = make_supernet_step(network, FixedSampler(ARCHITECTURES[:1]), "fp32", CPU)
    with_two = make_supernet_step(network, FixedSampler(ARCHITECTURES), "fp32", CPU)

    figures = measure_in_turns(
        [
            timed(lambda: [plain(batch) for _ in range(STEPS)]),
            timed(lambda: [with_one(step, batch) for step in range(STEPS)]),
            timed(lambda: [with_two(step, batch) for step in range(STEPS)]),
        ],
        args.runs,
    )
    names = ("extracted, plain loop", "sliced, one architecture", "sliced, two architectures")
    for name, seconds in zip(names, figures, strict=True):
        milliseconds = 1e3 * statistics.median(seconds) / STEPS
        ratio = PairedFigures(seconds, figures[0]).ratio
        print(f"{name:<28} {milliseconds:6.2f} ms  {ratio:5.2f}")


def make_tiny_network() -> ElasticEncoder:
    """Return an untrained super-network whose matrices are too small to count."""
    config = BertConfig(
        vocab_size=200,
        hidden_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=96,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ElasticEncoder(Encoder(from_family_config(config, num_labels=2)))


def make_tiny_batch() -> Batch:
    """Return a batch of two texts with eight tokens each."""
    ids = torch.randint(5, 200, (2, 8))
    mask = torch.ones_like(ids).bool()
    token_types = torch.zeros_like(ids)
    return Batch(ids, mask, token_types, torch.tensor([0, 1]), np.arange(2), 2, 16)


if __name__ == "__main__":
    main()

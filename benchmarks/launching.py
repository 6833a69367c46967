"""What a step costs beside its arithmetic: Python, torch's calls, lists of slices.

    python -m benchmarks.launching

Where a GPU computes a small encoder's step faster than its kernels are launched, this is what a step
takes there. Measured on a processor with a network of six layers whose matrices are too small to count:
a sliced step of one and of two architectures beside the extracted network's in a plain loop, in turns.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from transformers import BertConfig

from benchmarks.measure import RUNS, measure_in_turns, timed
from benchmarks.workload import FixedSampler, make_supernet_step, plain_step
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import from_family_config
from raycomp.encoder.layers import Encoder

STEPS = 50


def main() -> None:
    """Measure and print milliseconds a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cpu, layers = torch.device("cpu"), 6
    config = BertConfig(
        vocab_size=200, hidden_size=24, num_hidden_layers=layers, num_attention_heads=12,
        intermediate_size=96, max_position_embeddings=16, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    network = ElasticEncoder(Encoder(from_family_config(config, num_labels=2)))
    archs = [Architecture(layers, (h,) * layers, (k,) * layers) for h, k in ((6, 48), (4, 32))]
    dense = plain_step(network.extract(archs[0]), "fp32", cpu)
    one, two = FixedSampler(archs[:1]), FixedSampler(archs)
    sliced, both = (make_supernet_step(network, sampler, "fp32", cpu) for sampler in (one, two))
    ids = torch.randint(5, 200, (2, 8))
    batch = Batch(ids, torch.ones_like(ids).bool(), ids * 0, torch.tensor([0, 1]), np.arange(2), 2, 16)
    found = measure_in_turns(
        [
            timed(lambda: [dense(batch) for _ in range(STEPS)]),
            timed(lambda: [sliced(i, batch) for i in range(STEPS)]),
            timed(lambda: [both(i, batch) for i in range(STEPS)]),
        ],
        args.runs,
    )
    names = ("extracted, plain loop", "sliced, one architecture", "sliced, two architectures")
    for name, taken in zip(names, found, strict=True):
        ratios = sorted(a / b for a, b in zip(taken, found[0], strict=True))
        middle = sorted(taken)[len(taken) // 2] / STEPS
        print(f"{name:<28} {1e3 * middle:6.2f} ms  {ratios[len(ratios) // 2]:5.2f}")


if __name__ == "__main__":
    main()

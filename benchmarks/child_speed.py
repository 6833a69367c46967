"""A compiled CNN against a BERT-base-shaped teacher in plain transformers, side by side.

    python benchmarks/child_speed.py [--structure FILE.json] [--batches 128 1] [--runs 5]

Speed does not depend on weights, so both are random. Without a structure file the CNN has nine 5-wide
convolutions a cell, which gives the published sizes. Both run in fp32, in turns; prints the
medians, their ratio, and the sizes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from raycomp.deployment.latency import measure_latencies_ms
from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compiled_config, compiled_macs
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import StudentShape

VOCABULARY, LENGTH = 30522, 128


def main() -> None:
    """Time both for each K and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structure", type=Path, help="structure.json of a trial")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 7])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    text = args.structure.read_text() if args.structure else None
    searched = Structure.from_json(text) if text else Structure(3, ("std_conv_5",) * 9)
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig()).eval()
    full = sum(p.numel() for p in teacher.parameters())
    shape = StudentShape(VOCABULARY, 128, 128, LENGTH, 2, False, 102, 0)
    networks: list[Any] = [teacher]
    for layers in args.layers:
        structure = Structure(layers, searched.operations, searched.nodes)
        networks.append(RaycompCnnForSequenceClassification(compiled_config(shape, structure)).eval())
    for batch in args.batches:
        medians = measure_latencies_ms(
            [_forward(n) for n in networks], VOCABULARY,
            length=LENGTH, batch=batch, runs=args.runs if batch > 1 else 8 * args.runs, warmup=1,
        )  # fmt: skip
        for layers, network, ms in zip(args.layers, networks[1:], medians[1:], strict=True):
            size = sum(p.numel() for p in network.parameters())
            row = {
                "batch": batch, "K": layers, "teacher_ms": round(medians[0], 1), "cnn_ms": round(ms, 2),
                "times_faster": round(medians[0] / ms, 1), "params": size,
                "times_smaller": round(full / size, 1),
                "gflop": round(2 * compiled_macs(network.config, LENGTH) / 1e9, 3),
                "operations": sorted(set(searched.operations)),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
    print(f"fp32, {torch.get_num_threads()} threads, medians of {args.runs} runs in turns")


def _forward(network: Any) -> Callable[[Tensor, Tensor], object]:
    return lambda ids, mask: network(input_ids=ids, attention_mask=mask).logits


if __name__ == "__main__":
    main()

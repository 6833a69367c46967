"""Speed of a compiled CNN compared with a teacher of BERT-base's shape in plain transformers.

    python -m benchmarks.child_speed [--structure FILE.json] [--batches 128 1] [--runs 5]

The weights do not change the speed, so both are random. Without a structure file the CNN has nine
convolutions of 5 taps per cell, which gives the published sizes. Both run in fp32, in turns. Prints one
line of JSON per batch size and number of cells: median times, their ratio, and sizes.
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

from benchmarks.claims.child import LENGTH, SHAPE, VOCABULARY
from raycomp.deployment.latency import measure_latencies_ms
from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compiled_config, compiled_macs
from raycomp.methods.adabert.structure import Structure


def main() -> None:
    """Time teacher and CNN for each number of cells and batch size."""
    args = _parse_arguments()
    if args.structure:
        searched = Structure.from_json(args.structure.read_text())
    else:
        searched = Structure(3, ("std_conv_5",) * 9)

    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig()).eval()
    networks: list[Any] = [teacher]
    for layers in args.layers:
        structure = Structure(layers, searched.operations, searched.nodes)
        networks.append(RaycompCnnForSequenceClassification(compiled_config(SHAPE, structure)).eval())

    for batch in args.batches:
        teacher_ms, *cnn_ms = measure_latencies_ms(
            [_forward(network) for network in networks],
            VOCABULARY,
            length=LENGTH,
            batch=batch,
            runs=args.runs if batch > 1 else 8 * args.runs,
            warmup=1,
        )
        for layers, network, ms in zip(args.layers, networks[1:], cnn_ms, strict=True):
            params = _count_params(network)
            row = {
                "batch": batch,
                "K": layers,
                "teacher_ms": round(teacher_ms, 1),
                "cnn_ms": round(ms, 2),
                "times_faster": round(teacher_ms / ms, 1),
                "params": params,
                "times_smaller": round(_count_params(teacher) / params, 1),
                "gflop": round(2 * compiled_macs(network.config, LENGTH) / 1e9, 3),
                "operations": sorted(set(searched.operations)),
            }
            print(json.dumps(row), flush=True)
    print(f"fp32, {torch.get_num_threads()} threads, medians of {args.runs} runs in turns")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structure", type=Path, help="structure.json of a trial.")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 7], help="Numbers of cells.")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1], help="Batch sizes.")
    parser.add_argument("--runs", type=int, default=5, help="Timed runs; eight times as many at batch 1.")
    return parser.parse_args()


def _count_params(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _forward(network: Any) -> Callable[[Tensor, Tensor], object]:
    return lambda ids, mask: network(input_ids=ids, attention_mask=mask).logits


if __name__ == "__main__":
    main()

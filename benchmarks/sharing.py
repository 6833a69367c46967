"""How many multiply-adds it saves to score architectures together (decision 9), by counting.

    python -m benchmarks.sharing [--length 32] [--state RUN/supernet/sampler.json]

Draws what the demo's four budgets ask for first, under a theta that has learnt nothing or that of a
run, and counts the matrix products of one text: each architecture by itself, those that begin alike
together, and the last layer for the first token alone. Nothing is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import demo_context, whole_space_sampler
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.search.initial_set import shared_initial_set
from raycomp.storage.files import read_json

SEED = 17


def products(shape: EncoderShape, heads: int, ffn: int, length: int, asking: int) -> tuple[int, int]:
    """Return the multiply-adds of a layer's attention and of its FFN on one text.

    Args:
        shape: of the network.
        heads, ffn: of the layer.
        length: tokens.
        asking: tokens whose output is wanted: all, or the first one.
    """
    hidden, inner = shape.hidden_size, heads * shape.head_size
    attention = 2 * hidden * inner * (length + asking) + 2 * asking * length * inner
    return attention, 2 * asking * hidden * ffn


def counted(
    archs: Sequence[Architecture], shape: EncoderShape, length: int, *, first: bool
) -> tuple[int, int]:
    """Return the multiply-adds of all architectures, each by itself and together.

    Args:
        archs: what is scored.
        shape: of the network.
        length: tokens of a text.
        first: whether the last layer runs for the first token alone.
    """
    alone, nodes = 0, dict[tuple[Any, ...], int]()
    for arch in archs:
        path: tuple[Any, ...] = ()
        for i, (heads, ffn) in enumerate(zip(arch.heads, arch.ffn, strict=True)):
            last = first and i == arch.depth - 1
            costs = products(shape, heads, ffn, length, 1 if last else length)
            for width, cost in zip((heads, ffn), costs, strict=True):
                path = (*path, (width, last))
                nodes[path] = cost
                alone += cost
    return alone, sum(nodes.values())


def main() -> None:
    """Count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--state", type=Path, help="a trained sampler.json")
    parser.add_argument("--counts", type=int, nargs="+", default=[32, 58, 200])
    args = parser.parse_args()
    context = demo_context()
    state = read_json(args.state) if args.state else whole_space_sampler(context).state_dict()
    budgets = [context.budget(settings) for settings in context.job.budget]
    for count in args.counts:
        archs = shared_initial_set(context.space, state, budgets, count, SEED)
        whole, _ = counted(archs, context.shape, args.length, first=False)
        alone, together = counted(archs, context.shape, args.length, first=True)
        print(
            f"{len(archs)} architectures: together {alone / together:.2f} times fewer, "
            f"the last layer's part {whole / alone:.2f} times, both {whole / together:.2f} times"
        )


if __name__ == "__main__":
    main()

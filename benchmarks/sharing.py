"""Multiply-adds saved by scoring architectures together (decision 9), by counting.

    python -m benchmarks.sharing [--length 32] [--state RUN/supernet/sampler.json]

Takes the first requests of the demo's four budgets, sampled from an untrained architecture distribution
or from that of a run, and counts the matrix products of one text: each architecture by itself, layers
with an equal beginning together, and the last layer only for the first token. Takes seconds, and times
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import make_parser
from benchmarks.workload import demo_context, whole_space_sampler
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.search.initial_set import shared_initial_set
from raycomp.storage.files import read_json

SEED = 17


def main() -> None:
    """Count, and print a line for each number of architectures."""
    parser = make_parser(__doc__)
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--state", type=Path, help="sampler.json of a trained super-network")
    parser.add_argument("--counts", type=int, nargs="+", default=[32, 58, 200])
    args = parser.parse_args()

    context = demo_context()
    sampler = whole_space_sampler(context)
    state = read_json(args.state) if args.state else sampler.state_dict()
    budgets = [context.budget(settings) for settings in context.job.budget]

    for count in args.counts:
        archs = shared_initial_set(context.space, state, budgets, count, SEED)
        whole, _ = count_products(archs, context.shape, args.length, first_token_only=False)
        separate, together = count_products(archs, context.shape, args.length, first_token_only=True)
        print(
            f"{len(archs)} architectures: together {separate / together:.2f} times fewer, "
            f"the last layer's part {whole / separate:.2f} times, both {whole / together:.2f} times"
        )


def count_products(
    archs: Sequence[Architecture], shape: EncoderShape, length: int, *, first_token_only: bool
) -> tuple[int, int]:
    """Return the multiply-adds of all architectures on one text: (each by itself, together).

    Together, a block is computed once for all architectures that are equal up to it.

    Args:
        archs: Architectures to score.
        shape: Shape of the network.
        length: Tokens of the text.
        first_token_only: Whether the last layer computes its output only for the first token.
    """
    separate = 0
    # Widths of all blocks up to a block -> multiply-adds of that block.
    blocks: dict[tuple[Any, ...], int] = {}

    for arch in archs:
        prefix: tuple[Any, ...] = ()
        for layer, (heads, ffn) in enumerate(zip(arch.heads, arch.ffn, strict=True)):
            is_short = first_token_only and layer == arch.depth - 1
            num_outputs = 1 if is_short else length
            costs = layer_products(shape, heads, ffn, length, num_outputs)
            for width, cost in zip((heads, ffn), costs, strict=True):
                prefix = (*prefix, (width, is_short))
                blocks[prefix] = cost
                separate += cost
    return separate, sum(blocks.values())


def layer_products(
    shape: EncoderShape, heads: int, ffn: int, length: int, num_outputs: int
) -> tuple[int, int]:
    """Return the multiply-adds of a layer on one text: (attention, FFN).

    Args:
        shape: Shape of the network.
        heads: Attention heads of the layer.
        ffn: FFN neurons of the layer.
        length: Tokens of the text.
        num_outputs: Number of tokens whose output is computed.
    """
    hidden = shape.hidden_size
    inner = heads * shape.head_size
    projections = 2 * hidden * inner * (length + num_outputs)
    attention = projections + 2 * num_outputs * length * inner
    return attention, 2 * num_outputs * hidden * ffn


if __name__ == "__main__":
    main()

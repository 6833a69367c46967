"""The deployment search at many budgets: evaluations, used part of the limits, and quality.

    python -m benchmarks.many_budgets [--counts 1 4 21 100 300 1000] [--order shuffled] [--seeds 3]

Searches a MiniLM-like space whose losses are made up: an effect of each choice, a slope in cost, and
noise of a tenth of the networks' spread. No network is trained. Prints for each number of budgets, whose
limits lie evenly from .12 to 1.0 of the encoder: groups, distinct evaluations, their ratio to one
budget's and the square root of the number of budgets, the smallest and the 5% quantile of the used part
of the limits, the number of budgets that use less than 95% although the space has a network that uses
more (`missed`), and seconds. All are means over the seeds, but `least_use` is the smallest.
Writes runs/benchmarks/many_budgets.parquet.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measure import make_parser
from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.effects import choice_regressors
from raycomp.search.search_loop import SearchLoop, SearchTrial, search_groups
from raycomp.search.setup import SearchSetup
from raycomp.search.space import SearchSpace

SHAPE = EncoderShape(
    vocab_size=30_522, hidden_size=384, embedding_size=384, head_size=32, layer_heads=(12,) * 6,
    layer_ffn=(1536,) * 6, max_position_embeddings=512, type_vocab_size=2, num_labels=2,
)  # fmt: skip
SMALLEST_SHARE = 0.12
EVALUATIONS = 40
MIN_USE = 0.95
NOISE = 0.1
OUTPUT = Path("runs/benchmarks/many_budgets.parquet")


def main() -> None:
    """Search every number of budgets with every seed, print, and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 21, 100, 300, 1000])
    parser.add_argument("--order", choices=["rising", "falling", "shuffled"], default="shuffled")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    rows = []
    for count in args.counts:
        runs = [search_many(count, args.order, seed) for seed in range(args.seeds)]
        row = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        row["least_use"] = min(run["least_use"] for run in runs)
        rows.append({"budgets": count, **row})
        print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 1), flush=True)

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(OUTPUT)


def search_many(count: int, order: str, seed: int) -> dict[str, float]:
    """Search `count` budgets; return the figures of one row."""
    setup = SearchSetup(parse_job(make_job(count, order, seed)), Path(), SHAPE)
    landscape = Landscape(setup.space, seed)
    theta = {
        "joint": False,
        "dist": ArchitectureDistribution(setup.space.variables(False)).state_dict(),
    }
    started = time.perf_counter()
    used = []
    missed = 0
    reachable = list_costs(setup)
    groups = search_groups(setup)
    for group in groups:
        loop = SearchLoop(setup, theta, SearchTrial(group.name, "rated", 0))
        while archs := loop.ask():
            losses = [landscape.loss(arch) for arch in archs]
            loop.tell(archs, [-loss for loss in losses], losses)
        for budget in loop.members:
            arch, _, _ = loop.best(budget.name)
            limit = setup.limit(budget)
            used.append(setup.costs.cost(budget.kind, arch) / limit)
            is_reachable = bool(((reachable >= MIN_USE * limit) & (reachable <= limit)).any())
            missed += used[-1] < MIN_USE and is_reachable

    evaluations = len(landscape.losses)
    return {
        "groups": len(groups),
        "evaluations": evaluations,
        "ratio": evaluations / EVALUATIONS,
        "root": math.sqrt(count),
        "least_use": min(used),
        "use_5_percent": float(np.quantile(used, 0.05)),
        "missed": missed,
        "seconds": time.perf_counter() - started,
    }


def list_costs(setup: SearchSetup) -> np.ndarray:
    """Return the encoder parameters of all networks of the space, each number once, ascending."""
    space = setup.space
    layers = {
        setup.costs.cost("encoder_params", Architecture(1, (heads,), (ffn,)))
        for heads in space.heads
        for ffn in space.ffn
    }
    sums: set[float] = {0.0}
    costs: set[float] = set()
    for depth in range(1, max(space.depth) + 1):
        sums = {total + layer for total in sums for layer in layers}
        if depth in space.depth:
            costs |= sums
    return np.array(sorted(costs))


def make_job(count: int, order: str, seed: int) -> dict[str, Any]:
    """Return a job of `count` budgets with evenly spaced limits."""
    shares = np.linspace(SMALLEST_SHARE, 1.0, count) if count > 1 else np.array([0.5])
    if order == "falling":
        shares = shares[::-1]
    if order == "shuffled":
        shares = np.random.default_rng(seed).permutation(shares)
    return {
        "run": {"name": "many", "seed": seed},
        "task": {"name": "demo/polarity"},
        "model": {"name": "demo/minilm-l6"},
        "search": {"evaluations": EVALUATIONS},
        "budget": [{"name": f"b{i}", "encoder_params": f"{s:.6f}x"} for i, s in enumerate(shares)],
    }


class Landscape:
    """Made-up losses of architectures.

    Attributes:
        losses: The losses that were asked for.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.losses: dict[Architecture, float] = {}
        self._space = space
        self._is_open = ArchitectureDistribution(space.variables()).open
        self._rng = np.random.default_rng([seed, 1])
        self._effects = self._rng.normal(size=self._is_open.size) * 0.02

    def loss(self, arch: Architecture) -> float:
        """Return the loss of an architecture; asked twice, it is the same."""
        if arch not in self.losses:
            regressors = choice_regressors(self._space.encode(arch)[None], self._is_open)
            size = sum(h / 12 + k / 1536 for h, k in zip(arch.heads, arch.ffn, strict=True)) / 12
            noise = NOISE * 0.05 * self._rng.normal()
            self.losses[arch] = float(0.6 - 0.2 * size + (regressors @ self._effects)[0] + noise)
        return self.losses[arch]


if __name__ == "__main__":
    main()

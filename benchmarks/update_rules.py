"""Drift on noise and speed to a known optimum of the update rules of theta.

    python benchmarks/update_rules.py [--blocks 1 10]

For each rule, first step and block (updates whose samples are drawn together,
`train.sampler_sync_steps`): the share
of the entropy left after 100 and 2,000 updates on pure noise, and the share of variables at their known
optimum after 100 and 1,000 noisy updates, means over 8 seeds (--seeds). Writes
runs/benchmarks/update_rules.parquet.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace
from raycomp.search.updates import ASNG, PrintedRule, UpdateRule

SPACE = SearchSpace(4, (2, 3, 4), (1, 2, 4), (16, 32, 64))
BEST = np.array([1, 2, 0, 1, 1, 0, 2, 2, 1])
RULES = {
    "raw": lambda d: PrintedRule(),
    "sng 1.0": lambda d: ASNG(d, adapt=False),
    "asng 1.0": lambda d: ASNG(d),
    "asng 0.3": lambda d: ASNG(d, delta=0.3),
    "asng 0.1": lambda d: ASNG(d, delta=0.1),
}


def walk(rule_name: str, block: int, seed: int, noise_only: bool, marks: list[int]) -> list[float]:
    dist = ArchitectureDistribution(SPACE.variables())
    rule: UpdateRule = RULES[rule_name](dist)
    rng, start, found = np.random.default_rng(seed), dist.entropy(), []
    drawn: list[np.ndarray] = []
    for update in range(1, max(marks) + 1):
        drawn = drawn or [np.array([_one(dist, rng) for _ in range(2)]) for _ in range(block)]
        indices = drawn.pop(0)
        wrong = ((indices != BEST) & (indices >= 0)).sum(1) + 0.5 * (indices[:, 0] != BEST[0])
        losses = rng.normal(size=2) + (0.0 if noise_only else wrong)
        rule.update(dist, indices, losses.astype(np.float64), np.ones(2))
        if update in marks:
            hit = float((dist.mode()[:7] == BEST[:7]).mean())
            found.append(dist.entropy() / start if noise_only else hit)
    return found


def _one(dist: ArchitectureDistribution, rng: np.random.Generator) -> list[int]:
    row = dist.sample(rng)
    depth = SPACE.depth[int(row[0])]
    return [c if i == 0 or (i - 1) // 2 < depth else -1 for i, c in enumerate(row)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    rows = []
    for name, block in itertools.product(RULES, args.blocks):
        drift, hits = (
            np.mean([walk(name, block, s, noise, marks) for s in range(args.seeds)], axis=0)
            for noise, marks in ((True, [100, 2000]), (False, [100, 1000]))
        )
        rows.append(
            {
                "rule": name,
                "block": block,
                "entropy_100": drift[0],
                "entropy_2000": drift[1],
                "hit_100": hits[0],
                "hit_1000": hits[1],
            }
        )
    frame = pd.DataFrame(rows)
    out = Path("runs/benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(out / "update_rules.parquet")
    print(frame.round(3).to_string(index=False))


if __name__ == "__main__":
    main()

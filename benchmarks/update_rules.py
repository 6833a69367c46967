"""Update rules of the architecture distribution: drift on noise, and speed to a known optimum.

    python -m benchmarks.update_rules [--blocks 1 10] [--seeds 8]

For each rule, first step and block (updates whose samples are drawn together,
`train.sampler_sync_steps`), prints means over the seeds of: the share of the entropy left after 100 and
2,000 updates on pure noise, and the share of variables at their known optimum after 100 and 1,000 noisy
updates. Writes runs/benchmarks/update_rules.parquet. Takes some minutes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import make_parser
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.space import SearchSpace
from raycomp.search.updates import ASNG, PrintedRule, UpdateRule

SPACE = SearchSpace(4, (2, 3, 4), (1, 2, 4), (16, 32, 64))

# The best choice of each variable: depth, then heads and FFN of each layer.
BEST = np.array([1, 2, 0, 1, 1, 0, 2, 2, 1])

# Variables that exist at the best depth: depth itself, and two for each of three layers.
NUM_ACTIVE = 7

RULES: dict[str, Callable[[ArchitectureDistribution], UpdateRule]] = {
    "raw": lambda distribution: PrintedRule(),
    "sng 1.0": lambda distribution: ASNG(distribution, adapt=False),
    "asng 1.0": lambda distribution: ASNG(distribution),
    "asng 0.3": lambda distribution: ASNG(distribution, delta=0.3),
    "asng 0.1": lambda distribution: ASNG(distribution, delta=0.1),
}
NOISE_UPDATES = (100, 2000)
SIGNAL_UPDATES = (100, 1000)
OUTPUT = Path("runs/benchmarks/update_rules.parquet")


def main() -> None:
    """Run every rule and block, print, and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()

    rows = []
    for rule, block in itertools.product(RULES, args.blocks):
        entropies = np.mean([entropy_on_noise(rule, block, seed) for seed in range(args.seeds)], axis=0)
        hits = np.mean([hits_with_signal(rule, block, seed) for seed in range(args.seeds)], axis=0)
        rows.append(
            {
                "rule": rule,
                "block": block,
                "entropy_100": entropies[0],
                "entropy_2000": entropies[1],
                "hit_100": hits[0],
                "hit_1000": hits[1],
            }
        )

    frame = pd.DataFrame(rows)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(OUTPUT)
    print(frame.round(3).to_string(index=False))


def entropy_on_noise(rule: str, block: int, seed: int) -> list[float]:
    """Return the share of the entropy that is left after NOISE_UPDATES updates on pure noise."""
    uniform_entropy = ArchitectureDistribution(SPACE.variables()).entropy()
    return [
        distribution.entropy() / uniform_entropy
        for distribution in walk(rule, block, seed, has_signal=False, updates=NOISE_UPDATES)
    ]


def hits_with_signal(rule: str, block: int, seed: int) -> list[float]:
    """Return the share of active variables at their optimum after SIGNAL_UPDATES noisy updates."""
    return [
        float((distribution.mode()[:NUM_ACTIVE] == BEST[:NUM_ACTIVE]).mean())
        for distribution in walk(rule, block, seed, has_signal=True, updates=SIGNAL_UPDATES)
    ]


def walk(
    rule_name: str, block: int, seed: int, *, has_signal: bool, updates: tuple[int, ...]
) -> list[ArchitectureDistribution]:
    """Return copies of the distribution after each number of updates.

    Args:
        rule_name: Key of RULES.
        block: Number of updates whose samples are drawn together, before the first of them.
        seed: Seed of the samples and of the noise.
        has_signal: Whether a loss counts the wrong choices of its sample, besides the noise.
        updates: Numbers of updates, in ascending order.
    """
    distribution = ArchitectureDistribution(SPACE.variables())
    rule = RULES[rule_name](distribution)
    rng = np.random.default_rng(seed)
    waiting: list[np.ndarray] = []
    copies = []

    for update in range(1, updates[-1] + 1):
        if not waiting:
            waiting = [sample_pair(distribution, rng) for _ in range(block)]
        samples = waiting.pop(0)
        losses = rng.normal(size=2)
        if has_signal:
            losses = losses + count_wrong_choices(samples)
        rule.update(distribution, samples, losses.astype(np.float64), np.ones(2))
        if update in updates:
            copies.append(copy.deepcopy(distribution))
    return copies


def count_wrong_choices(samples: np.ndarray) -> np.ndarray:
    """Return the number of wrong choices of each sample; a wrong depth counts one and a half."""
    is_wrong = (samples != BEST) & (samples >= 0)
    return is_wrong.sum(1) + 0.5 * (samples[:, 0] != BEST[0])


def sample_pair(distribution: ArchitectureDistribution, rng: np.random.Generator) -> np.ndarray:
    """Return two samples: choices (2, variables)."""
    return np.array([sample_choices(distribution, rng) for _ in range(2)])


def sample_choices(distribution: ArchitectureDistribution, rng: np.random.Generator) -> list[int]:
    """Return a sampled choice of each variable; -1 for variables of layers above the sampled depth."""
    choices = distribution.sample(rng)
    depth = SPACE.depth[int(choices[0])]
    return [
        choice if variable == 0 or (variable - 1) // 2 < depth else -1
        for variable, choice in enumerate(choices)
    ]


if __name__ == "__main__":
    main()

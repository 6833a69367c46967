"""What the update rules learn about networks of equal cost, where the truth is known.

    python -m benchmarks.landscapes [--steps 900] [--ratios 0.1 0.3 0] [--seeds 12] [--rules asng]

The losses are made up: an effect of each choice of MiniLM's space, drawn anew for each seed, a slope in
cost, and Gaussian noise. The unit is the standard deviation (sd) of quality among networks at half of the
encoder. The signal-to-noise ratio is one sd over the deviation of one loss; 0 is pure noise. EE-SNG asks
and is told as in training, with the default settings except the update rule.

Prints, as mean and 95% interval over the seeds, for networks fitted to half of the encoder: the mean
quality of the 12 of 400 uniform ones that theta rates highest, the mean quality of 40 draws of theta, the
controller's K at the end, and Kendall's tau between rating and quality. Writes
runs/benchmarks/landscapes.parquet. 900 steps take about a second.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.measure import make_parser
from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.effects import choice_regressors
from raycomp.search.moves import fit_to_limit
from raycomp.search.space import SearchSpace

SPACE = SearchSpace(6, (3, 4, 5, 6), (4, 8, 12), (256, 384, 512, 1536))
HIDDEN = 384
COSTS = SPACE.layer_sums(lambda heads, ffn: heads * 32 * HIDDEN * 4 + 2 * ffn * HIDDEN)
FULL = float(COSTS(SPACE.encode(SPACE.largest())[None])[0])
SHARE = 0.5
SLOPE = 3.0
"""Gain of the full network over none, in sd of quality at equal cost."""

NUM_CANDIDATES = 400
NUM_TOP = 12
NUM_DRAWS = 40
MEASURES = ("top", "draw", "K", "tau")
OUTPUT = Path("runs/benchmarks/landscapes.parquet")


def main() -> None:
    """Simulate every rule, mode and ratio; print, and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[900])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.3, 0.0])
    parser.add_argument("--rules", nargs="+", default=["asng", "regression"])
    parser.add_argument("--modes", nargs="+", default=["eesng"], choices=["eesng", "exploit", "explore"])
    parser.add_argument("--pairings", nargs="+", default=["matched"], choices=["matched", "free"])
    parser.add_argument("--samples", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, default=12)
    args = parser.parse_args()

    rows = []
    grid = (args.steps, args.ratios, args.rules, args.modes, args.pairings, args.samples)
    for steps, ratio, rule, mode, pairing, samples in itertools.product(*grid):
        settings = EESNGSettings(
            update=rule, mode=mode, pairing=pairing, samples=samples, sampler_sync_steps=10
        )
        # As many networks are trained as with two per step.
        num_steps = 2 * steps // samples
        results = np.array([simulate(settings, num_steps, ratio, seed) for seed in range(args.seeds)])
        row = {"steps": num_steps, "ratio": ratio, "rule": rule, "mode": mode, "pairing": pairing}
        row |= {"samples": samples, "seeds": args.seeds}
        for name, values in zip(MEASURES, results.T, strict=True):
            row[name] = values.mean()
            row[f"{name}_half"] = half_interval(values)
        rows.append(row)
        print(pd.DataFrame([row]).round(2).to_string(index=False, header=len(rows) == 1), flush=True)

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(OUTPUT)


def half_interval(values: np.ndarray) -> float:
    """Return half of the 95% interval of the mean (Student's t)."""
    count = len(values)
    if count < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)


@dataclass
class Landscape:
    """Qualities of architectures at equal cost.

    Attributes:
        effects: (variables, choices): effect of each choice on quality, in sd.
        candidates: Choice indices of uniform networks fitted to the budget, (candidates, variables).
        quality: (candidates,), of mean 0 and deviation 1.
        mean: Mean quality of the candidates before it was subtracted.
    """

    effects: np.ndarray
    candidates: np.ndarray
    quality: np.ndarray
    mean: float


def make_landscape(seed: int) -> Landscape:
    """Return the landscape of a seed."""
    is_open = ArchitectureDistribution(SPACE.variables()).open
    rng = np.random.default_rng([1, seed])
    effects = rng.normal(size=is_open.shape)
    archs: dict[Architecture, None] = {}
    while len(archs) < NUM_CANDIDATES:
        archs[fit(SPACE.sample_uniform(rng), rng)] = None

    rows = np.stack([SPACE.encode(arch) for arch in archs])
    quality = choice_regressors(rows, is_open) @ effects.ravel()
    effects /= quality.std()
    quality = quality / quality.std()
    return Landscape(effects, rows, quality - quality.mean(), float(quality.mean()))


def fit(arch: Architecture, rng: np.random.Generator) -> Architecture:
    """Return an architecture fitted to the budget."""
    fitted = fit_to_limit(
        arch, SPACE, lambda a: float(COSTS(SPACE.encode(a)[None])[0]), SHARE * FULL, rng
    )
    assert fitted is not None
    return fitted


def simulate(settings: EESNGSettings, steps: int, ratio: float, seed: int) -> list[float]:
    """Return the measures of one training of the sampler.

    Args:
        settings: Settings of EE-SNG.
        steps: Number of steps.
        ratio: Signal-to-noise ratio; 0 is pure noise.
        seed: Seed of the landscape, of the sampler and of the noise.
    """
    landscape = make_landscape(seed)
    schedule = Schedule((progressive_phases(SPACE)[-1],), (steps,))
    sampler = EESNG(SPACE, schedule, EESNGSettings(**{**vars(settings), "seed": seed}), COSTS)
    is_open = sampler.distribution.open
    rng = np.random.default_rng([2, seed])
    for step in range(steps):
        rows = np.stack([SPACE.encode(arch) for arch in sampler.ask(step)])
        losses = rng.normal(size=len(rows)) / (ratio or 1.0)
        if ratio:
            losses -= choice_regressors(rows, is_open) @ landscape.effects.ravel()
            losses -= SLOPE * COSTS(rows) / FULL
        sampler.tell(step, losses.tolist())

    dist = sampler.distribution
    ratings = dist.rating(landscape.candidates)
    top = np.argsort(-ratings, kind="stable")[:NUM_TOP]
    draws = [fit(SPACE.decode(dist.sample(rng)), rng) for _ in range(NUM_DRAWS)]
    drawn = choice_regressors(np.stack([SPACE.encode(a) for a in draws]), is_open)
    tau = stats.kendalltau(ratings, landscape.quality).statistic
    return [
        float(landscape.quality[top].mean()),
        float((drawn @ landscape.effects.ravel()).mean()) - landscape.mean,
        sampler.info(steps - 1)["p_exploit"] if False else sampler._update_controller(),
        0.0 if np.isnan(tau) else float(tau),
    ]


if __name__ == "__main__":
    main()

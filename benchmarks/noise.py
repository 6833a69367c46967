"""What figures of the results pages are without any signal: the figure of a claim must differ from these.

    python -m benchmarks.noise [--seeds 20]

Losses are random numbers, so nothing can be learned. Prints, as mean and Student's 95% interval over
seeds:

- the controller's K and the share of exploration steps of EE-SNG, for the schedules of the study eesng;
- the share of the encoder of networks that are drawn uniformly within a budget, and of the same draws
  after they were grown to the limit, as all searchers of YOCO-BERT but random search once did;
- how many of a budget's evaluations are its own where several budgets share an initial set;
- the entropy of AdaBERT's P_alpha at the end of a search, for several numbers of steps.

The space is that of MiniLM-L6. Takes half a minute, without data or models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.intervals import student_interval
from benchmarks.measure import make_parser
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape, layer_params
from raycomp.methods.adabert.gumbel import temperature_at
from raycomp.methods.adabert.noise_band import AlphaUpdates, entropy_on_noise
from raycomp.methods.adabert.structure import OPERATIONS
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.noise_band import run_on_noise
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.moves import fit_to_limit
from raycomp.search.space import SearchSpace

SHAPE = EncoderShape(30522, 384, 384, 32, (12,) * 6, (1536,) * 6, 512, 2, 2)
SPACE = SearchSpace(6, (3, 4, 5, 6), (4, 8, 12), (256, 384, 512, 1536))

# Steps of each phase: the preset `small` of jobs/studies/eesng.toml, and its longer form on the page.
SCHEDULES = {
    104: (2, 7, 7, 7, 8, 11, 11, 17, 34),
    520: (10, 35, 35, 35, 40, 55, 55, 85, 170),
}
SHARES = (0.75, 0.5)
PROPOSALS = 160

# The studies shared an initial set so large that all budgets needed 1.3 times the evaluations of one.
SHARED_OVERHEAD = 0.3
SEARCH_STEPS = (300, 530, 900)
"""Steps of an AdaBERT search; 530 are those of jobs/adabert_quickstart.toml."""


def main() -> None:
    """Compute and print every figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="random seeds of each figure")
    args = parser.parse_args()
    seeds = range(args.seeds)
    torch.set_num_threads(1)

    print(f"{args.seeds} seeds; mean (95% interval of the mean)")
    for steps, phases in SCHEDULES.items():
        for update in ("sng", "asng"):
            figures = np.array([controller_on_noise(update, phases, seed) for seed in seeds])
            print(
                f"EE-SNG, {steps} steps, update {update}: K {_format(figures[:, 0])}, "
                f"explored {_format(figures[:, 1])}"
            )
    for share in SHARES:
        sizes = np.array([proposal_shares(share, seed) for seed in seeds])
        print(
            f"proposals at {share:g}x: uniform within the budget {_format(sizes[:, 0])}, "
            f"grown to the limit {_format(sizes[:, 1])}"
        )
    for budgets, evaluations in ((4, 40), (4, 64), (3, 64)):
        own = math.floor(SHARED_OVERHEAD * evaluations / (budgets - 1))
        print(f"{budgets} budgets of {evaluations} evaluations: {evaluations - own} shared, {own} own")
    for steps in SEARCH_STEPS:
        entropies = p_alpha_on_noise(steps, args.seeds)
        print(f"P_alpha after {steps} steps: entropy {_format(entropies)} of the largest")


def _format(values: Sequence[float] | np.ndarray) -> str:
    """Return mean and interval of the mean over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    low, high = student_interval(values)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def controller_on_noise(update: str, phases: tuple[int, ...], seed: int) -> tuple[float, float]:
    """Return K at the last step and the share of steps that explored, with random losses."""
    costs = SPACE.layer_sums(functools.partial(layer_params, SHAPE), joint=False)
    settings = EESNGSettings(update=update, seed=seed)  # type: ignore[arg-type]
    sampler = EESNG(SPACE, Schedule(progressive_phases(SPACE), phases), settings, costs)
    trace = run_on_noise(sampler, seed)
    return float(trace.exploit_probability[-1]), float(trace.explored.mean())


def proposal_shares(share: float, seed: int) -> tuple[float, float]:
    """Return the mean share of the encoder of uniform networks within a budget, and of grown ones."""
    rng = np.random.default_rng(seed)
    full = encoder_params(SPACE.largest())
    limit = share * full
    drawn: list[float] = []
    grown: list[float] = []
    while len(drawn) < PROPOSALS:
        arch = SPACE.sample_uniform(rng)
        if encoder_params(arch) <= limit:
            drawn.append(encoder_params(arch) / full)
        fitted = fit_to_limit(arch, SPACE, encoder_params, limit, rng)
        if fitted is not None and len(grown) < PROPOSALS:
            grown.append(encoder_params(fitted) / full)
    return float(np.mean(drawn)), float(np.mean(grown))


def encoder_params(arch: Architecture) -> float:
    """Return the parameters of an architecture's layers."""
    return float(sum(layer_params(SHAPE, h, k) for h, k in zip(arch.heads, arch.ffn, strict=True)))


def p_alpha_on_noise(steps: int, seeds: int) -> np.ndarray:
    """Return the share of entropy left of P_alpha after searches whose gradients are noise, (seeds,).

    The settings are those of the paper's form: one update in each step of the second half.
    """
    updates = AlphaUpdates(
        layers=8,
        nodes=3,
        candidates=OPERATIONS,
        structures=1,
        estimator="contrast",
        learning_rate=3e-2,
        temperatures=tuple(temperature_at(step / (steps - 1)) for step in range(steps // 2, steps)),
    )
    return entropy_on_noise(updates, seeds)[-1]


if __name__ == "__main__":
    main()

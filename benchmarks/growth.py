"""How cost grows with the number of budgets and workers, and with the size of the space and the data.

    python -m benchmarks.growth [--only budgets workers space data] [--quick] [--out FILE.json]

Writes benchmarks/results/growth-<machine>-<date>.json: rows of (what, series, x, value, unit,
simulated), which `raycomp report RUN --growth FILE` draws. Prints for each series the exponent p of
value ~ x^p, fitted by least squares on logarithms: 1 is proportional, 0 does not grow. Takes about five
minutes.

- budgets: the real search (Ray Tune, ledger, searchers) over 1 to 16 budgets. Evaluators sleep 50 ms
  instead of computing a forward pass.
- workers: 1 and 2 are measured (where there are two CPUs). Up to 64 are simulated from a measured step,
  the bytes of its gradients, and a network of `--gbits` and `--latency-us` in a ring all-reduce.
- space: EE-SNG and the deployment search on spaces of 10^6 to 10^13 architectures.
- data: tokenising, and scoring one architecture.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims.evaluation import first_rows
from benchmarks.growth_on_ray import Network, grow_budgets, grow_workers
from benchmarks.measure import Options, make_parser, measure_in_turns, timed, write_claims
from benchmarks.run_all import RESULTS_FOLDER, machine_name
from benchmarks.workload import demo_context
from raycomp.data.tokens import tokenise
from raycomp.encoder.architecture import Architecture
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.report.growth import GrowthPoint, fit_exponent, group_by_series
from raycomp.search.budget import SearchBudget
from raycomp.search.searcher import Searcher
from raycomp.search.searchers import make_searcher
from raycomp.search.space import SearchSpace
from raycomp.training.evaluation import predict_logits

SPACES = (
    SearchSpace(6, (3, 4, 5, 6), (4, 8, 12), (256, 384, 512, 1536)),
    SearchSpace(8, (5, 6, 7, 8), (4, 8, 12), (256, 384, 512, 1536)),
    SearchSpace(12, (6, 8, 10, 12), (4, 8, 12), (512, 768, 1024, 3072)),
)
NUM_SENTENCES = (250, 1000, 4000)


def main() -> None:
    """Measure the requested parts; print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="the smallest sizes; writes no results")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--gbits", type=float, default=10.0)
    parser.add_argument("--latency-us", type=float, default=50.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    options = Options(1 if args.quick else args.runs, args.quick, "cpu")
    network = Network(args.gbits, args.latency_us)
    rows: list[GrowthPoint] = []
    for name in args.only:
        points = PARTS[name](options, network)
        print_growth(points)
        rows += points

    out = args.out
    if out is None and not args.quick and set(args.only) == set(PARTS):
        date = datetime.date.today().isoformat()
        out = RESULTS_FOLDER / f"growth-{machine_name('cpu')}-{date}.json"
    if out is not None:
        write_claims(out, [asdict(row) for row in rows])
        print(f"written to {out}")


def print_growth(points: list[GrowthPoint]) -> None:
    """Print a line for each series: its values by size, and its exponent. `*` is a simulated value."""
    for name, series in group_by_series(points).items():
        values = ", ".join(
            f"{point.x:g}{'*' if point.simulated else ''}: {point.value:.4g}" for point in series
        )
        exponent = fit_exponent([point.x for point in series], [point.value for point in series])
        label = f"{name}, {series[0].unit}"
        print(f"{series[0].what:<8} {label:<56} p = {exponent:5.2f}   {values}", flush=True)


def grow_space(options: Options, network: Network) -> list[GrowthPoint]:
    """Return milliseconds of one ask and tell, and of one uniform sample, by the size of the space."""
    num_steps = 5 if options.quick else 200
    points = []
    for space in SPACES:
        size = float(space.num_architectures())
        for call in make_space_calls(space, num_steps):
            (seconds,) = measure_in_turns([timed(call.work)], options.runs)
            milliseconds = 1000 * float(np.median(seconds)) / call.repetitions
            points.append(GrowthPoint("space", call.name, size, milliseconds, "ms"))
    return points


@dataclass(frozen=True)
class SpaceCall:
    """Calls of a training or a search to their space.

    Attributes:
        name: Name of the series.
        repetitions: Number of calls in `work`.
        work: Runs the calls.
    """

    name: str
    repetitions: int
    work: Callable[[], object]


def make_space_calls(space: SearchSpace, num_steps: int) -> list[SpaceCall]:
    """Return the calls of a training, of a search, and of uniform sampling."""
    sampler = make_sampler(space)
    searcher = make_sng_searcher(space, sampler)
    rng = np.random.default_rng(0)
    next_step = 0

    def train() -> None:
        nonlocal next_step
        for _ in range(num_steps):
            archs = sampler.ask(next_step)
            sampler.tell(next_step, [rough_cost(arch) for arch in archs])
            next_step += 1

    # A search asks for eight architectures at a time, which takes longer.
    num_requests = max(1, num_steps // 20)

    def search() -> None:
        for _ in range(num_requests):
            archs = searcher.ask(8)
            searcher.tell(archs, [1.0] * len(archs), [rough_cost(arch) for arch in archs])

    def sample() -> None:
        for _ in range(num_steps):
            space.sample_uniform(rng)

    return [
        SpaceCall("EE-SNG, an ask and tell of two", num_steps, train),
        SpaceCall("search, an ask and tell of eight", num_requests, search),
        SpaceCall("uniform draw", num_steps, sample),
    ]


def rough_cost(arch: Architecture) -> float:
    """Return a number that grows with the size of an architecture."""
    return float(sum(arch.ffn) + 128 * sum(arch.heads))


def make_sampler(space: SearchSpace) -> EESNG:
    """Return EE-SNG in its last phase, which samples from the whole space."""
    phases = progressive_phases(space)
    schedule = Schedule(phases, (0,) * (len(phases) - 1) + (10**6,))
    costs = space.layer_sums(lambda heads, ffn: ffn + 128 * heads)
    return EESNG(space, schedule, EESNGSettings(), costs)


def make_sng_searcher(space: SearchSpace, sampler: EESNG) -> Searcher:
    """Return the search by SNG for a budget of half the largest cost."""
    largest = rough_cost(space.largest())
    budget = SearchBudget(rough_cost, 0.5 * largest, largest)
    return make_searcher("sng", space, sampler.state_dict(), budget, 0)


def grow_data(options: Options, network: Network) -> list[GrowthPoint]:
    """Return seconds of tokenising and of scoring one architecture, by the number of sentences."""
    context = demo_context()
    train = context.task.train
    tokens = context.tokens("train")
    model = context.network().eval()
    smallest = context.space.smallest()

    points = []
    for count in NUM_SENTENCES[: 2 if options.quick else None]:
        split = replace(train, text_a=train.text_a[:count], labels=train.labels[:count])
        split_tokens = first_rows(tokens, count)

        def tokenise_split(split=split) -> object:
            return tokenise(split, lambda: context.tokenizer, context.facts.tokenizer, 64, None)

        def score_smallest(split_tokens=split_tokens) -> object:
            return predict_logits(
                lambda batch: model(batch, smallest).logits,
                split_tokens,
                pad_id=context.pad_id,
                max_tokens=4096,
                precision="fp32",
                device=torch.device("cpu"),
            )

        figures = measure_in_turns([timed(tokenise_split), timed(score_smallest)], min(3, options.runs))
        for name, seconds in zip(("tokenising", "scoring the smallest network"), figures, strict=True):
            points.append(GrowthPoint("data", name, count, float(np.median(seconds)), "s"))
    return points


PARTS: dict[str, Callable[[Options, Network], list[GrowthPoint]]] = {
    "budgets": grow_budgets,
    "workers": grow_workers,
    "space": grow_space,
    "data": grow_data,
}


if __name__ == "__main__":
    main()

"""What two workers on two CPUs can gain over one: with an all-reduce, and without any communication.

    python -m benchmarks.two_workers [--runs 7]

The steps of `claims/workers.py`: batches of 32 sentences on one worker; on two workers, the same
batches with half of the rows each, or batches of 64. Prints the median milliseconds of a step, and the
sentences per second over those of one worker. Two workers that communicate nothing are the bound for
every all-reduce. Takes about two minutes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from benchmarks.measure import make_parser
from benchmarks.ranks import WORLD, Rank, start_two_ranks

BATCH_SIZE = 32
NUM_BATCHES = 4

# Name -> whether two workers have batches that are twice as large.
FORMS = {"the same batches, half of the rows each": False, f"{BATCH_SIZE} rows each": True}
ONE_WORKER = f"one worker, {BATCH_SIZE} rows"


class IndependentRank(Rank):
    """A rank that can also train on its share of the rows without the other rank."""

    def train_own_share(self) -> float:
        """Train on this rank's share of each batch without an all-reduce; return seconds."""
        started = time.perf_counter()
        for rows in self.batches[WORLD]:
            self.run_step(1, self.make_batch(rows, WORLD))
        return time.perf_counter() - started


@dataclass(frozen=True)
class Case:
    """One kind of training.

    Attributes:
        num_sentences: Sentences of all its batches.
        start: Starts the training; returns the calls whose results are seconds.
    """

    num_sentences: int
    start: Callable[[], list[Any]]


def main() -> None:
    """Measure all cases in turns, and print medians; the first turn warms up."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    if args.runs < 2:
        parser.error(f"--runs {args.runs} is not allowed. Use 2 or more.")

    with start_two_ranks(IndependentRank) as ranks:
        for form, grow in FORMS.items():
            sentences = ray.get([rank.prepare.remote(BATCH_SIZE, NUM_BATCHES, grow) for rank in ranks])[0]
            cases = make_cases(ranks, sentences)
            seconds = measure_cases(cases, args.runs)
            print(f"{form}:")
            print_cases(cases, seconds)


def make_cases(ranks: list[Any], sentences: dict[int, int]) -> dict[str, Case]:
    """Return the cases by name; `sentences` are those of one worker and of two."""
    both = sentences[WORLD]
    return {
        ONE_WORKER: Case(sentences[1], lambda: [ranks[0].train.remote(1)]),
        "two workers and their sum": Case(both, lambda: [rank.train.remote(WORLD) for rank in ranks]),
        "two workers at once, no sum": Case(
            both, lambda: [rank.train_own_share.remote() for rank in ranks]
        ),
        "only one of them": Case(both // WORLD, lambda: [ranks[0].train_own_share.remote()]),
    }


def measure_cases(cases: dict[str, Case], runs: int) -> dict[str, float]:
    """Return the median seconds of each case; the slower worker counts."""
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, case in cases.items():
            figures[name].append(max(ray.get(case.start())))
    return {name: statistics.median(seconds[1:]) for name, seconds in figures.items()}


def print_cases(cases: dict[str, Case], seconds: dict[str, float]) -> None:
    """Print a line for each case."""
    base_speed = cases[ONE_WORKER].num_sentences / seconds[ONE_WORKER]
    for name, case in cases.items():
        milliseconds = 1e3 * seconds[name] / NUM_BATCHES
        speed = case.num_sentences / seconds[name]
        print(f"  {name}: {milliseconds:.0f} ms a step, {speed / base_speed:.2f} times")


if __name__ == "__main__":
    main()

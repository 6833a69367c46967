"""What two workers on two processors can gain over one: with their sum, and with nothing in common.

    python -m benchmarks.two_workers

The steps of `claims/workers.py`: batches of 32 sentences on one worker, halves of them on two. Prints
medians of milliseconds a step. What two workers that share nothing take is the bound for any sum.
"""

from __future__ import annotations

import argparse
import statistics
import time

import ray

from benchmarks.ranks import WORLD, Rank, two_ranks
from raycomp.data.batches import collate, shard, words_of

BATCH, BATCHES = 32, 4


class Alone(Rank):
    """A rank that can also train on its half without the other."""

    def half(self) -> float:
        """Train on this rank's half of each batch, with no sum; return seconds."""
        began = time.perf_counter()
        for rows in self.batches[WORLD]:
            mine, words = shard(rows, self.rank, WORLD), words_of(self.tokens, rows, self.place.pad_id)
            batch = collate(self.tokens, mine, self.place.pad_id, total=len(rows), words=words)
            self.steps[1](self.done[1], batch)
            self.done[1] += 1
        return time.perf_counter() - began


def main() -> None:
    """Measure in turns, print medians; the first turn warms up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    if runs < 2:
        parser.error(f"--runs {runs} was given; allowed: 2 or more")
    found: dict[str, list[float]] = {}
    with two_ranks(Alone) as ranks:
        ray.get([r.prepare.remote(BATCH, BATCHES) for r in ranks])
        for _ in range(runs):
            for name, asked in (
                (f"one worker, {BATCH} rows", lambda: [ranks[0].train.remote(1)]),
                (
                    "two workers, half of them each, and their sum",
                    lambda: [r.train.remote(WORLD) for r in ranks],
                ),
                (
                    "two workers at once, half of them each, no sum",
                    lambda: [r.half.remote() for r in ranks],
                ),
                ("one worker, half of them", lambda: [ranks[0].half.remote()]),
            ):
                found.setdefault(name, []).append(max(ray.get(asked())) / BATCHES * 1e3)
    for name, values in found.items():
        print(f"{name}: {statistics.median(values[1:]):.0f} ms a step")


if __name__ == "__main__":
    main()

"""What two workers on two processors can gain over one: with their sum, and with nothing in common.

    python -m benchmarks.two_workers

The steps of `claims/workers.py`: batches of 32 sentences on one worker, and on two either the same
batches, half of the rows each, or batches of 64. Prints medians of milliseconds a step, and how many
times the sentences a second of one worker that is. What two workers that share nothing reach is the
bound for any sum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import ray

from benchmarks.ranks import WORLD, Rank, start_two_ranks
from raycomp.data.batches import collate, shard, words_of

BATCH, BATCHES = 32, 4
FORMS = {"the same batches, half of the rows each": False, f"{BATCH} rows each": True}


class Alone(Rank):
    """A rank that can also train on its share without the other."""

    def share(self) -> float:
        """Train on this rank's share of each batch, with no sum; return seconds."""
        began = time.perf_counter()
        for rows in self.batches[WORLD]:
            mine, words = shard(rows, self.rank, WORLD), words_of(self.tokens, rows, self.context.pad_id)
            batch = collate(self.tokens, mine, self.context.pad_id, total=len(rows), words=words)
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
    with start_two_ranks(Alone) as ranks:
        for form, grow in FORMS.items():
            sentences = ray.get([r.prepare.remote(BATCH, BATCHES, grow) for r in ranks])[0]
            asked: dict[str, tuple[int, Callable[[], list[Any]]]] = {
                f"one worker, {BATCH} rows": (sentences[1], lambda: [ranks[0].train.remote(1)]),
                "two workers and their sum": (
                    sentences[WORLD],
                    lambda: [r.train.remote(WORLD) for r in ranks],
                ),
                "two workers at once, no sum": (
                    sentences[WORLD],
                    lambda: [r.share.remote() for r in ranks],
                ),
                "one of them alone": (sentences[WORLD] // WORLD, lambda: [ranks[0].share.remote()]),
            }
            found: dict[str, list[float]] = {name: [] for name in asked}
            for _ in range(runs):
                for name, (_, start) in asked.items():
                    found[name].append(max(ray.get(start())))
            seconds = {name: statistics.median(values[1:]) for name, values in found.items()}
            one = sentences[1] / seconds[f"one worker, {BATCH} rows"]
            print(f"{form}:")
            for name, (count, _) in asked.items():
                taken = seconds[name]
                print(f"  {name}: {taken / BATCHES * 1e3:.0f} ms a step, {count / taken / one:.2f} times")


if __name__ == "__main__":
    main()

"""Sentences per second of two workers with one CPU each, over one worker with one CPU.

    python -m benchmarks.claims.workers

First with the same global batches of 32 sentences, short to long, of which each of two workers takes
half of the rows; then with 32 sentences for each worker, so that two workers have batches of 64. Both
sum their gradients with the all-reduce of a training. Super-network steps, trained on labels only,
fp32. Takes about a minute.
"""

from __future__ import annotations

import ray

from benchmarks.measure import Claim, Options, measure_pair, run_claims
from benchmarks.ranks import WORLD, start_two_ranks

BATCH_SIZE = 32

# Claim -> whether two workers have batches that are twice as large.
FORMS = {
    "sentences a second, 2 workers / 1 worker": False,
    "the same, 32 sentences a worker": True,
}


def measure(options: Options) -> list[Claim]:
    """Train some steps of each; a figure is sentences per second of the slower rank."""
    num_batches = 1 if options.quick else 4
    claims = []
    with start_two_ranks() as ranks:
        for name, grow in FORMS.items():
            prepared = ray.get([rank.prepare.remote(BATCH_SIZE, num_batches, grow) for rank in ranks])
            sentences = prepared[0]

            def speed(world: int, sentences: dict[int, int] = sentences) -> float:
                seconds = ray.get([rank.train.remote(world) for rank in ranks[:world]])
                return sentences[world] / max(seconds)

            paired = measure_pair(lambda: speed(WORLD), lambda: speed(1), options.runs)
            claims.append(Claim.from_figures(name, paired, "higher", 1.8))
    return claims


if __name__ == "__main__":
    run_claims(__doc__, measure)

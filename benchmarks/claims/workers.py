"""Sentences a second of two workers with one processor each, against one worker with one.

Once the same global batches of 32 sentences, short to long, of which each of two workers takes half of
the rows; and once 32 sentences a worker, so that two have batches of 64. Both sum their gradients by
the all-reduce of a training. Super-network steps, labels alone, fp32.
"""

from __future__ import annotations

import ray

from benchmarks.measure import Claim, Options, measure_pair, run_claims
from benchmarks.ranks import WORLD, start_two_ranks

BATCH = 32
FORMS = {
    "sentences a second, 2 workers / 1 worker": False,
    "the same, 32 sentences a worker": True,
}


def measure(settings: Options) -> list[Claim]:
    """Train some steps of each; the figure is sentences a second, of the slower rank."""
    batches, found = 1 if settings.quick else 4, []
    with start_two_ranks() as ranks:
        for name, grow in FORMS.items():
            sentences = ray.get([r.prepare.remote(BATCH, batches, grow) for r in ranks])[0]

            def rate(world: int, sentences: dict[int, int] = sentences) -> float:
                return sentences[world] / max(ray.get([r.train.remote(world) for r in ranks[:world]]))

            paired = measure_pair(lambda: rate(WORLD), lambda: rate(1), settings.runs)
            found.append(Claim.from_figures(name, paired, "higher", 1.8))
    return found


if __name__ == "__main__":
    run_claims(__doc__, measure)

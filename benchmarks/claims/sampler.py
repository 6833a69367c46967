"""A step of 50 ms on two workers with the EE-SNG actor, against the same step without it.

Each worker multiplies matrices for 50 ms and joins one sum over the workers. With the actor it also
asks for the step's architectures before and tells their losses after, as SuperStep does, on the
demo's space; the actor writes its snapshot to a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ray

from benchmarks.measure import Claim, Settings, alternating, main
from benchmarks.ranks import WORLD, two_ranks
from benchmarks.setting import open_sampler, workplace
from raycomp.runtime.recipe import train_plan
from raycomp.runtime.sampler_actor import start_sampler

STEP_SECONDS = 0.05


def measure(settings: Settings) -> list[Claim]:
    """Run the same steps with and without the actor; the figure is the slower rank's seconds."""
    place, steps = workplace(), 2 if settings.quick else 40
    plan = train_plan(place.job, place.space, place.shape, 10_000)
    plan["steps"] = [0] * (len(plan["steps"]) - 1) + [100_000]
    state = open_sampler(place).state_dict()
    with two_ranks() as ranks, tempfile.TemporaryDirectory() as folder:
        job = place.job.model_dump(mode="json")
        actor = start_sampler("bench-sampler", job, plan, Path(folder) / "snapshot.json")
        ray.get(actor.begin.remote("bench", WORLD, 0, state, 60.0))
        work = min(ray.get([r.calibrate.remote(STEP_SECONDS) for r in ranks]))
        done = 0

        def run(actor_or_none: Any, first: int) -> float:
            asked = [r.steps_with.remote(actor_or_none, "bench", first, steps, work) for r in ranks]
            return max(ray.get(asked)) / steps

        def with_actor() -> float:
            nonlocal done
            done += steps
            return run(actor, done - steps)

        paired = alternating(with_actor, lambda: run(None, 0), settings.runs)
    name = "step of 50 ms on 2 workers, with the sampler actor / without"
    return [Claim.of(name, paired, "lower", 1.01)]


if __name__ == "__main__":
    main(__doc__, measure)

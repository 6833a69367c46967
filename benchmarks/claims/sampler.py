"""A step of 50 ms on two workers with the EE-SNG actor, against the same step without it.

Each worker multiplies matrices for 50 ms and joins one sum over the workers. With the actor it also
asks for the step's architectures before, and tells their losses when the share of the work is left that
sum and update have in a real step of two workers (measured first, and printed). The demo's space; the
actor writes its snapshot to a temporary folder.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from benchmarks.measure import Claim, Options, measure_pair, run_claims
from benchmarks.ranks import WORLD, start_two_ranks
from benchmarks.workload import demo_context, whole_space_sampler
from raycomp.methods.yoco.plan import train_plan
from raycomp.runtime.training.sampler_client import ActorSampler, start_sampler

STEP_SECONDS = 0.05


def measure(settings: Options) -> list[Claim]:
    """Run the same steps with and without the actor; the figure is the slower rank's seconds."""
    context, steps = demo_context(), 10 if settings.quick else 100  # whole blocks
    plan = train_plan(context.job, context.space, context.shape, 10_000)
    plan["steps"] = [0] * (len(plan["steps"]) - 1) + [100_000]
    state = whole_space_sampler(context).state_dict()
    with start_two_ranks() as ranks, tempfile.TemporaryDirectory() as folder:
        job, attempt = context.job.model_dump(mode="json"), "bench"
        actor = start_sampler("bench-sampler", job, plan, Path(folder) / "snapshot.json")
        ray.get(actor.begin.remote(attempt, WORLD, 0, state, 60.0))
        work = min(ray.get([r.calibrate.remote(STEP_SECONDS) for r in ranks]))
        ray.get([r.prepare.remote(32, 1 if settings.quick else 4) for r in ranks])
        update = min(ray.get([r.update_share.remote() for r in ranks]))
        print(f"share of a step after its losses are told: {update:.2f}", flush=True)
        done = 0

        def run(sampler: Callable[[int], Any] | None, first: int) -> float:
            asked = [r.steps_with.remote(sampler, first, steps, work, update) for r in ranks]
            return max(ray.get(asked)) / steps

        def with_actor(form: Callable[[Any, str, int], Any]) -> float:
            nonlocal done
            done += steps
            return run(functools.partial(form, actor, attempt), done - steps)

        def sent() -> float:
            return with_actor(ActorSampler)

        against_none = measure_pair(sent, lambda: run(None, 0), settings.runs)
    name = "step of 50 ms on 2 workers, with the sampler actor"
    return [
        Claim.from_figures(f"{name} / without", against_none, "lower", 1.01),
    ]


if __name__ == "__main__":
    run_claims(__doc__, measure)

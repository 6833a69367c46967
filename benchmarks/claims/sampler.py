"""A step of 50 ms on two workers with the EE-SNG actor, over the same step without it.

    python -m benchmarks.claims.sampler

Each worker multiplies matrices for 50 ms and joins one all-reduce. With the actor, it also asks for the
step's architectures first, and tells their losses before the last part of the work. That part is the
share that all-reduce and update have in a real step of two workers, which is measured first and
printed. The space is the demo's; the actor writes its snapshot to a temporary directory. Takes about
two minutes.
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
from benchmarks.workload import demo_context, open_last_phase, whole_space_sampler
from raycomp.methods.yoco.plan import train_plan
from raycomp.runtime.training.sampler_client import ActorSampler, start_sampler

STEP_SECONDS = 0.05
BARRIER_SECONDS = 60.0
ATTEMPT = "bench"


def measure(options: Options) -> list[Claim]:
    """Run the same steps with and without the actor; a figure is the slower rank's seconds."""
    context = demo_context()
    # A multiple of `train.sampler_sync_steps`, so that the last block is complete.
    num_steps = 10 if options.quick else 100

    with start_two_ranks() as ranks, tempfile.TemporaryDirectory() as folder:
        plan = train_plan(context.job, context.space, context.shape, 10_000)
        actor = start_sampler(
            "bench-sampler",
            context.job.model_dump(mode="json"),
            open_last_phase(plan, 100_000),
            Path(folder) / "snapshot.json",
        )
        state = whole_space_sampler(context).state_dict()
        ray.get(actor.begin.remote(ATTEMPT, WORLD, 0, state, BARRIER_SECONDS))

        products = min(ray.get([rank.calibrate.remote(STEP_SECONDS) for rank in ranks]))
        num_batches = 1 if options.quick else 4
        ray.get([rank.prepare.remote(32, num_batches) for rank in ranks])
        update_share = min(ray.get([rank.update_share.remote() for rank in ranks]))
        print(f"share of a step after its losses are told: {update_share:.2f}", flush=True)

        def run_steps(make_sampler: Callable[[int], Any] | None, first_step: int) -> float:
            calls = [
                rank.steps_with.remote(make_sampler, first_step, num_steps, products, update_share)
                for rank in ranks
            ]
            return max(ray.get(calls)) / num_steps

        next_step = 0

        def run_with_actor() -> float:
            nonlocal next_step
            seconds = run_steps(functools.partial(ActorSampler, actor, ATTEMPT), next_step)
            next_step += num_steps
            return seconds

        paired = measure_pair(run_with_actor, lambda: run_steps(None, 0), options.runs)

    name = "step of 50 ms on 2 workers, with the sampler actor / without"
    return [Claim.from_figures(name, paired, "lower", 1.01)]


if __name__ == "__main__":
    run_claims(__doc__, measure)

"""The band of EE-SNG's entropy and K on random losses."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pandas as pd

from raycomp.config.loader import parse_stored
from raycomp.encoder.cost import EncoderShape
from raycomp.errors import UserError
from raycomp.methods.yoco.eesng import EESNG
from raycomp.methods.yoco.noise_band import ControllerBand, controller_band, count_repetitions
from raycomp.methods.yoco.plan import build_sampler
from raycomp.methods.yoco.schedule import progressive_phases
from raycomp.report.run_record import RunRecord
from raycomp.search.setup import make_space

CACHED_BANDS = 32


def find_controller_band(run: RunRecord, steps: pd.DataFrame) -> ControllerBand | str:
    """Return the band of a run's super-network on random losses, or the reason why it lacks one.

    Args:
        run: The run.
        steps: Rows of its super-network in the table `steps`, with the columns `part` and `step`.
    """
    train = run.job.get("train") or {}
    if train.get("mode") == "explore":
        return "theta does not change with train.mode = explore"
    if train.get("update") == "raw":
        return "the step of train.update = raw depends on the size of the losses"

    # Bounds are first and last steps: a resumed run can have a step twice.
    first_steps = steps.groupby("part", sort=False)["step"].min()
    bounds = [int(step) for step in (*first_steps, steps["step"].max() + 1)]
    if bounds[0] != 0:
        return "the run lacks the first steps of the training"
    lengths = {
        str(name): last - first
        for name, first, last in zip(first_steps.index, bounds, bounds[1:], strict=False)
    }

    if not count_repetitions(sum(lengths.values())):
        return "a training of this length would take too long to repeat"

    try:
        return _simulate_band(
            json.dumps(_without_seed(run.job)),
            json.dumps(run.facts.get("config")),
            tuple(lengths.items()),
        )
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return "the run's files do not describe its training completely"


def _without_seed(job: dict[str, object]) -> dict[str, object]:
    """Return a job whose name and seed, on which the band does not depend, are fixed."""
    run = job.get("run")
    fixed = {"name": "noise", "seed": 0}
    if isinstance(run, dict):
        fixed = {**run, **fixed}
    return {**job, "run": fixed}


@functools.lru_cache(CACHED_BANDS)
def _simulate_band(
    job_text: str, config_text: str, phases: tuple[tuple[str, int], ...]
) -> ControllerBand:
    """Return the band of a job; runs with equal settings, and smaller versions of a page, share it."""
    job = parse_stored(json.loads(job_text))
    shape = EncoderShape.from_config(SimpleNamespace(**json.loads(config_text)))
    space = make_space(job, shape)

    lengths = dict(phases)
    names = [phase.name for phase in progressive_phases(space)]
    if not lengths.keys() <= set(names):
        raise ValueError(f"the phases {', '.join(lengths)} are not those of the space")

    plan = {
        "space": space.to_dict(),
        "steps": [lengths.get(name, 0) for name in names],
        "shape": shape.to_dict(),
        "length": job.search.flops_length or job.task.max_length,
    }

    def make_sampler(seed: int) -> EESNG:
        seeded = job.model_copy(update={"run": job.run.model_copy(update={"seed": seed})})
        return build_sampler(seeded, plan)

    return controller_band(make_sampler, count_repetitions(sum(lengths.values())))

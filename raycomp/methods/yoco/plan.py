"""The training plan of a super-network: space, phases and sampler, as JSON that every process reads."""

from __future__ import annotations

from typing import Any

from raycomp.arithmetic import ceil_div
from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.search.cost_targets import job_targets
from raycomp.search.space import SearchSpace


def train_plan(job: Job, space: SearchSpace, shape: EncoderShape, rows: int) -> dict[str, Any]:
    """Return the plan that every worker and the sampler must agree on, as JSON values.

    Args:
        job: Job of the run.
        space: Search space of the super-network.
        shape: Shape of the full network.
        rows: Rows of the training split.

    Raises:
        UserError: A list of epochs or steps does not fit the number of phases.
    """
    return {
        "space": space.to_dict(),
        "steps": _steps_of_phases(job, space, rows),
        "sampler": {"name": "eesng"},
        "shape": shape.to_dict(),
        "length": job.search.flops_length or job.task.max_length,
    }


def _steps_of_phases(job: Job, space: SearchSpace, rows: int) -> list[int]:
    """Return the steps of each phase, from `train.steps` or else `train.epochs`."""
    phases = [phase.name for phase in progressive_phases(space)]
    key = "epochs"
    setting: Any = job.train.epochs
    if job.train.steps is not None:
        key = "steps"
        setting = job.train.steps

    # One number holds for every phase.
    values = list(setting) if isinstance(setting, list) else [setting] * len(phases)
    if len(values) != len(phases) or min(values) < 0 or sum(values) <= 0:
        raise UserError(
            f"train.{key} = {setting} does not fit the {len(phases)} phases ({', '.join(phases)}). Set "
            f"one number, or {len(phases)} numbers from 0 up with a sum above 0."
        )

    if key == "steps":
        return [int(value) for value in values]
    steps_per_epoch = ceil_div(rows, job.train.batch_size)
    return [round(value * steps_per_epoch) for value in values]


def plan_schedule(plan: dict[str, Any]) -> Schedule:
    """Return the phases of a plan with their steps."""
    space = SearchSpace.from_dict(plan["space"])
    return Schedule(progressive_phases(space), tuple(plan["steps"]))


def build_sampler(job: Job, plan: dict[str, Any]) -> EESNG:
    """Return the EE-SNG sampler of a plan before its first step."""
    costs = CostModel(EncoderShape.from_dict(plan["shape"]), plan["length"])
    settings = EESNGSettings(
        update=job.train.update,
        samples=job.train.samples,
        interval=job.train.interval,
        joint=job.space.joint,
        exploration_update=job.train.exploration_update,
        pairing=job.train.pairing,
        mode=job.train.mode,
        sampler_sync_steps=job.train.sampler_sync_steps,
        seed=job.run.seed,
    )
    space = SearchSpace.from_dict(plan["space"])

    def layer_params(heads: int, ffn: int) -> float:
        return float(costs.cost("encoder_params", Architecture(1, (heads,), (ffn,))))

    return EESNG(
        space,
        plan_schedule(plan),
        settings,
        space.layer_sums(layer_params, settings.joint),
        job_targets(job, space, costs),
    )

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
from raycomp.search.space import SearchSpace


def train_plan(job: Job, space: SearchSpace, shape: EncoderShape, rows: int) -> dict[str, Any]:
    """Return what every worker and the sampler must agree on: JSON-able.

    Raises:
        UserError: a list of epochs or steps does not fit the number of phases.
    """
    names = [p.name for p in progressive_phases(space)]
    per_epoch = ceil_div(rows, job.train.batch_size)
    given: Any = job.train.steps if job.train.steps is not None else job.train.epochs
    values = list(given) if isinstance(given, list) else [given] * len(names)
    key = "steps" if job.train.steps is not None else "epochs"
    if len(values) != len(names) or any(v < 0 for v in values) or sum(values) <= 0:
        raise UserError(
            f"train.{key} = {given} was given; allowed is one number, or {len(names)} numbers from "
            f"0 up, one per phase: {', '.join(names)}"
        )
    steps = [int(v) if key == "steps" else round(v * per_epoch) for v in values]
    return {
        "space": {
            "layers": space.num_layers,
            "depth": list(space.depth),
            "heads": list(space.heads),
            "ffn": list(space.ffn),
        },
        "steps": steps,
        "sampler": {"name": "eesng"},
        "shape": shape.to_dict(),
        "length": job.search.flops_length or job.task.max_length,
    }


def plan_space(plan: dict[str, Any]) -> SearchSpace:
    """Return the space that a plan names."""
    space = plan["space"]
    return SearchSpace(space["layers"], tuple(space["depth"]), tuple(space["heads"]), tuple(space["ffn"]))


def plan_schedule(plan: dict[str, Any]) -> Schedule:
    """Return the phases and their steps."""
    return Schedule(progressive_phases(plan_space(plan)), tuple(plan["steps"]))


def build_sampler(job: Job, plan: dict[str, Any]) -> EESNG:
    """Return a fresh EE-SNG sampler for a plan."""
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
    space = plan_space(plan)

    def layer(heads: int, ffn: int) -> float:
        return float(costs.cost("encoder_params", Architecture(1, (heads,), (ffn,))))

    return EESNG(space, plan_schedule(plan), settings, space.layer_sums(layer, settings.joint))

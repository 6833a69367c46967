"""From a job to space, schedule, costs and sampler: what needs no data, no weights, and no torch.

The sampler actor, the ledger and the trials of the search live on this alone, so that each of their
processes starts in a second.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from raycomp.encoder.arch import Architecture
from raycomp.encoder.cost import CostModel, Shape
from raycomp.errors import UserError
from raycomp.job import Job
from raycomp.job_yoco import BudgetSettings
from raycomp.tables import read_json
from raycomp.yoco.eesng import EESNG, EESNGSettings
from raycomp.yoco.schedule import Schedule, phases
from raycomp.yoco.searchers import Budget
from raycomp.yoco.space import SearchSpace


class Blueprint:
    """A job with the shape of its network: space, costs, budgets, and the trained sampler."""

    def __init__(self, job: Job, run_dir: Path, shape: Shape | None = None) -> None:
        self.job = job
        self.run_dir = run_dir
        self._shape = shape

    @property
    def shape(self) -> Shape:
        """The full network's shape."""
        if self._shape is None:
            raise ValueError("this blueprint was made without a shape")
        return self._shape

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The search space of the job on this network."""
        return make_space(self.job, self.shape)

    @functools.cached_property
    def costs(self) -> CostModel:
        """The cost model of the full network."""
        return CostModel(self.shape, self.job.search.flops_length or self.job.task.max_length)

    def limit(self, budget: BudgetSettings) -> float:
        """Return a budget's limit, absolute, in the unit of its kind."""
        return budget.resolve(float(self.costs.cost(budget.kind, self.space.largest())))

    def budget(self, settings: BudgetSettings) -> Budget:
        """Return a budget of the job with its cost function, its limit absolute."""

        def cost(arch: Architecture) -> float:
            return float(self.costs.cost(settings.kind, arch))

        return Budget(
            cost=cost,
            limit=self.limit(settings),
            largest=cost(self.space.largest()),
            alpha=self.job.search.alpha,
            form=self.job.search.reward,
        )

    def sampler_state(self) -> dict[str, Any]:
        """Return the trained sampler's state."""
        return read_json(self.run_dir / "supernet" / "sampler.json")


def make_space(job: Job, shape: Shape) -> SearchSpace:
    """Return the job's space; what it leaves open takes the paper's proportions.

    Raises:
        UserError: a choice is larger than the network, or the full size is missing.
    """
    layers = len(shape.layer_heads)
    heads, ffn = shape.layer_heads[0], shape.layer_ffn[0]
    chosen: dict[str, tuple[int, ...]] = {}
    for key, full, shares in (
        ("depth", layers, (1 / 2, 2 / 3, 5 / 6, 1)),
        ("heads", heads, (1 / 3, 2 / 3, 1)),
        ("ffn", ffn, (1 / 6, 1 / 4, 1 / 3, 1)),
    ):
        given = getattr(job.space, key)
        values = given if given is not None else [max(1, round(full * s)) for s in shares]
        wrong = [v for v in values if not 1 <= v <= full]
        if wrong or full not in values:
            raise UserError(
                f"space.{key} = {values} was given; allowed are numbers from 1 to {full}, and {full} "
                f"(the network's own) must be among them"
            )
        chosen[key] = tuple(sorted(set(values)))
    return SearchSpace(layers, chosen["depth"], chosen["heads"], chosen["ffn"])


def train_plan(job: Job, space: SearchSpace, shape: Shape, rows: int) -> dict[str, Any]:
    """Return what every worker and the sampler must agree on: JSON-able.

    Raises:
        UserError: a list of epochs or steps does not fit the number of phases.
    """
    names = [p.name for p in phases(space)]
    per_epoch = -(-rows // job.train.batch_size)
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
            "layers": space.layers,
            "depth": list(space.depth),
            "heads": list(space.heads),
            "ffn": list(space.ffn),
        },
        "steps": steps,
        "shape": shape.to_dict(),
        "length": job.search.flops_length or job.task.max_length,
    }


def plan_space(plan: dict[str, Any]) -> SearchSpace:
    """Return the space that a plan names."""
    space = plan["space"]
    return SearchSpace(space["layers"], tuple(space["depth"]), tuple(space["heads"]), tuple(space["ffn"]))


def plan_schedule(plan: dict[str, Any]) -> Schedule:
    """Return the phases and their steps."""
    return Schedule(phases(plan_space(plan)), tuple(plan["steps"]))


def build_sampler(job: Job, plan: dict[str, Any]) -> EESNG:
    """Return a fresh EE-SNG sampler for a plan."""
    costs = CostModel(Shape.from_dict(plan["shape"]), plan["length"])
    settings = EESNGSettings(
        update=job.train.update,
        lam=job.train.samples,
        interval=job.train.interval,
        joint=job.space.joint,
        explore=job.train.explored,
        pairs=job.train.pairs,
        mode=job.train.mode,
        block=job.train.block,
        seed=job.run.seed,
    )
    space = plan_space(plan)

    def layer(heads: int, ffn: int) -> float:
        return float(costs.cost("encoder_params", Architecture(1, (heads,), (ffn,))))

    return EESNG(space, plan_schedule(plan), settings, space.layer_sums(layer, settings.joint))


def file_hash(path: Path) -> str:
    """Return the first 16 hex digits of a file's sha256: the identity of weights."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]

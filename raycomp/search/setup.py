"""From a job to space, schedule, costs and sampler: what needs no data, no weights, and no torch.

The sampler actor, the ledger and the trials of the search live on this alone, so that each of their
processes starts in a second.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from raycomp.config.elastic import BudgetSettings
from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.search.searchers import SearchBudget
from raycomp.search.space import SearchSpace
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout


class SearchSetup:
    """A job with the shape of its network: space, costs, budgets, and one method's trained sampler.

    Attributes:
        job: The job.
        run_dir: The run directory.
        method: Name of the method whose super-network, sampler and search this is about.
        layout: Paths of the run directory.
        files: Paths of the method's files.
    """

    def __init__(
        self, job: Job, run_dir: Path, shape: EncoderShape | None = None, *, method: str = "yoco"
    ) -> None:
        self.job = job
        self.run_dir = run_dir
        self.method = method
        self.layout = RunLayout(run_dir)
        self.files = self.layout.method(method)
        self._shape = shape

    @property
    def shape(self) -> EncoderShape:
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

    def budget(self, settings: BudgetSettings) -> SearchBudget:
        """Return a budget of the job with its cost function, its limit absolute."""

        def cost(arch: Architecture) -> float:
            return float(self.costs.cost(settings.kind, arch))

        return SearchBudget(
            cost=cost,
            limit=self.limit(settings),
            largest=cost(self.space.largest()),
            alpha=self.job.search.alpha,
            form=self.job.search.reward,
        )

    def sampler_state(self) -> dict[str, Any]:
        """Return the trained sampler's state."""
        return read_json(self.files.sampler)


def make_space(job: Job, shape: EncoderShape) -> SearchSpace:
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
        least = 1 if key == "depth" else 0
        wrong = [v for v in values if not least <= v <= full]
        if wrong or full not in values:
            raise UserError(
                f"space.{key} is {values}. Give numbers from {least} to {full}, with {full} (the "
                f"network's own) among them."
            )
        chosen[key] = tuple(sorted(set(values)))
    return SearchSpace(layers, chosen["depth"], chosen["heads"], chosen["ffn"])

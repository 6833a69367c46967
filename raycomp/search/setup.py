"""Search space, costs and budgets of a job, without data, weights or torch.

The sampler actor, the ledger and the trials of the search import only this. Without torch, each of their
processes starts in a second.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.config.lengths import apply_lengths
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import CostModel, EncoderShape
from raycomp.errors import UserError
from raycomp.search.budget import SearchBudget
from raycomp.search.space import SearchSpace
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

PAPER_PROPORTIONS = {
    "depth": (1 / 2, 2 / 3, 5 / 6, 1),
    "heads": (1 / 3, 2 / 3, 1),
    "ffn": (1 / 6, 1 / 4, 1 / 3, 1),
}
"""Choices of each dimension as shares of the full network (YOCO-BERT, Section 3.2)."""


class SearchSetup:
    """A job with the shape of its network: space, costs, budgets, and one method's trained sampler.

    Attributes:
        job: The job, with the lengths of training that the run chose when it began.
        run_dir: The run directory.
        method: Name of the method whose super-network, sampler and search this is about.
        layout: Paths of the run directory.
        files: Paths of the method's files.
    """

    def __init__(
        self, job: Job, run_dir: Path, shape: EncoderShape | None = None, *, method: str = "yoco"
    ) -> None:
        self.run_dir = run_dir
        self.method = method
        self.layout = RunLayout(run_dir)
        self.job = job
        has_mode = job.run.equal_compute is not None or job.run.equal_epochs is not None
        if has_mode and self.layout.lengths.exists():
            self.job = apply_lengths(job, read_json(self.layout.lengths))
        self.files = self.layout.method(method)
        self._shape = shape

    @property
    def shape(self) -> EncoderShape:
        """The full network's shape.

        Raises:
            ValueError: None was given.
        """
        if self._shape is None:
            raise ValueError("this SearchSetup was created without a shape")
        return self._shape

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The search space of the job on this network."""
        return make_space(self.job, self.shape)

    @functools.cached_property
    def costs(self) -> CostModel:
        """The cost model of the full network."""
        return CostModel(self.shape, self.flops_length)

    @property
    def flops_length(self) -> int:
        """Tokens of the sequence that FLOPs are counted at."""
        return self.job.search.flops_length or self.job.task.max_length

    def limit(self, budget: BudgetSettings) -> float:
        """Return a budget's absolute limit, in the unit of its kind."""
        full_cost = self.costs.cost(budget.kind, self.space.largest())
        return budget.resolve(float(full_cost))

    def budget(self, settings: BudgetSettings) -> SearchBudget:
        """Return a budget of the job with its cost function and its absolute limit."""

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
    """Return the job's space; dimensions that it does not name get the paper's proportions.

    Args:
        job: The job.
        shape: Shape of the full network.

    Raises:
        UserError: A choice is larger than the network, or the full size is missing.
    """
    full_sizes = {
        "depth": len(shape.layer_heads),
        "heads": shape.layer_heads[0],
        "ffn": shape.layer_ffn[0],
    }
    choices = {key: _choices(job, key, full) for key, full in full_sizes.items()}
    return SearchSpace(full_sizes["depth"], choices["depth"], choices["heads"], choices["ffn"])


def _choices(job: Job, key: str, full: int) -> tuple[int, ...]:
    """Return the choices of one dimension, ascending.

    Args:
        job: The job.
        key: "depth", "heads" or "ffn".
        full: Size of the full network in this dimension.

    Raises:
        UserError: A choice is larger than the network, or the full size is missing.
    """
    values = getattr(job.space, key)
    if values is None:
        values = [max(1, round(full * proportion)) for proportion in PAPER_PROPORTIONS[key]]

    least = 1 if key == "depth" else 0
    is_valid = all(least <= value <= full for value in values)
    if not is_valid or full not in values:
        raise UserError(
            f"space.{key} is {values}. Give numbers from {least} to {full}, with {full} (the network's "
            f"own) among them."
        )
    return tuple(sorted(set(values)))

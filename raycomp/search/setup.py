"""Search space, costs and budgets of a job, without data, weights or torch.

The sampler actor, the ledger and the trials of the search import only this. Without torch, each of their
processes starts in a second.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from raycomp.config.budget import BUDGET_KINDS, BudgetSettings, width_step
from raycomp.config.job import Job
from raycomp.config.lengths import apply_lengths
from raycomp.encoder.architecture import FULL_TABLE, Architecture, WordTable
from raycomp.encoder.cost import CostFunction, CostModel, EncoderShape, table_params
from raycomp.errors import UserError
from raycomp.search.budget import SearchBudget
from raycomp.search.device_budgets import (
    BudgetCosts,
    DeviceState,
    find_named_tables,
    find_recorded_tables,
    read_corrections,
)
from raycomp.search.space import SearchSpace
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

SMALL_DEPTHS = (0, 1 / 6, 1 / 3)
"""Further choices of depth with a budget for a device. A layer costs time however thin it is."""

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
        self,
        job: Job,
        run_dir: Path,
        shape: EncoderShape | None = None,
        *,
        method: str = "yoco",
        device: DeviceState | None = None,
    ) -> None:
        """Remember the job; nothing is read.

        Args:
            job: The job.
            run_dir: The run directory. A process that has `device` does not read it for costs.
            shape: The full network's shape.
            method: Name of the method.
            device: What the driver knows about the budgets' devices; None reads it from the run
                directory.
        """
        self.run_dir = run_dir
        self.method = method
        self.layout = RunLayout(run_dir)
        self.job = job
        has_mode = job.run.equal_compute is not None or job.run.equal_epochs is not None
        if has_mode and self.layout.lengths.exists():
            self.job = apply_lengths(job, read_json(self.layout.lengths))
        self.files = self.layout.method(method)
        self._shape = shape
        self._device = device

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
        """The cost model of the full network, with a function for each budget that needs one."""
        return CostModel(self.shape, self.flops_length, lambda: self._budget_functions)

    @functools.cached_property
    def _budget_functions(self) -> dict[str, CostFunction]:
        costs = self.budget_costs
        return {
            costs.key(budget): costs.function(budget)
            for budget in self.job.budget
            if budget.kind not in BUDGET_KINDS and costs.is_known(budget)
        }

    @functools.cached_property
    def budget_costs(self) -> BudgetCosts:
        """Keys, limits and cost functions of the job's budgets."""
        base = CostModel(self.shape, self.flops_length)
        return BudgetCosts(base, self.space.largest(), self.device)

    @property
    def device(self) -> DeviceState:
        """Tables and corrections of the budgets' devices.

        Raises:
            UserError: A profile cannot be read, or does not fit its budget.
        """
        if not any(budget.is_for_device for budget in self.job.budget):
            return DeviceState()
        # The tables of a run do not change when the file of a profile does.
        if self._device is None:
            tables = find_recorded_tables(self.layout)
            if tables is None:
                tables = find_named_tables(self.job, self.shape)
            self._device = DeviceState(tables, read_corrections(self.files))
        return self._device

    def forget_device(self) -> None:
        """Read tables and corrections again: the run has measured."""
        self._device = None
        # The costs of a copied setup would ask the functions of the setup that it was copied from.
        for name in ("_budget_functions", "budget_costs", "costs"):
            self.__dict__.pop(name, None)

    def uncorrected(self) -> Self:
        """Return this setup with the predictions of the profiles, as they were before any certificate."""
        setup = copy.copy(self)
        setup.forget_device()
        setup._device = replace(self.device, corrections={})
        return setup

    @property
    def flops_length(self) -> int:
        """Tokens of the sequence that FLOPs are counted at."""
        return self.job.search.flops_length or self.job.task.max_length

    def limit(self, budget: BudgetSettings) -> float:
        """Return a budget's absolute limit, in the unit of its kind."""
        return self.budget_costs.limit(budget)

    def cost_key(self, budget: BudgetSettings) -> str:
        """Return the kind of cost of a budget, as `costs` knows it."""
        return self.budget_costs.key(budget)

    def budget(self, settings: BudgetSettings) -> SearchBudget:
        """Return a budget of the job with its cost function and its absolute limit."""
        key = self.cost_key(settings)

        def cost(arch: Architecture) -> float:
            return float(self.costs.cost(key, arch))

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
    # A head is as wide as its vectors.
    units = {"depth": 1, "heads": shape.head_size, "ffn": 1}
    choices = {key: _choices(job, key, full, units[key]) for key, full in full_sizes.items()}
    if job.space.plain:
        # The classes of transformers have all heads of the hidden width.
        choices["heads"] = (full_sizes["heads"],)
    tables = list_tables(job, shape)
    return SearchSpace(full_sizes["depth"], **choices, is_plain=job.space.plain, tables=tables)


def list_tables(job: Job, shape: EncoderShape) -> tuple[WordTable, ...]:
    """Return the word tables of a job's space, in the order of their parameters.

    A rank that does not make a table smaller is left out for this table.

    Args:
        job: The job.
        shape: Shape of the full network. Without the task's vocabulary, no table is cut.

    Raises:
        UserError: A rank does not make the full table smaller.
    """
    settings = job.embeddings
    is_cut_known = shape.task_vocab_size is not None
    cuts = [False, True] if "task" in settings.vocabulary and is_cut_known else [False]
    ranks = [rank for rank in settings.rank if isinstance(rank, int)]

    full_params = table_params(shape, FULL_TABLE)
    too_large = [r for r in ranks if table_params(shape, WordTable(rank=r)) >= full_params]
    if too_large:
        largest = (full_params - 1) // (shape.vocab_size + shape.embedding_size)
        raise UserError(
            f"embeddings.rank has {', '.join(map(str, too_large))}, but only ranks up to {largest} make "
            f"the {shape.vocab_size:,} x {shape.embedding_size} word table smaller. Give smaller ranks."
        )

    tables = [WordTable(is_cut) for is_cut in cuts]
    for is_cut in cuts:
        whole = table_params(shape, WordTable(is_cut))
        factored = [WordTable(is_cut, rank) for rank in ranks]
        tables += [table for table in factored if table_params(shape, table) < whole]
    return tuple(sorted(tables, key=lambda table: table_params(shape, table)))


def _choices(job: Job, key: str, full: int, unit: int) -> tuple[int, ...]:
    """Return the choices of one dimension, ascending.

    Args:
        job: The job.
        key: "depth", "heads" or "ffn".
        full: Size of the full network in this dimension.
        unit: Width of one head or neuron.

    Raises:
        UserError: A choice is larger than the network, or the full size is missing; or it does not fit a
            budget for a device.
    """
    values = getattr(job.space, key)
    if values is None:
        return _default_choices(job, key, full, unit)

    least = 1 if key == "depth" else 0
    is_valid = all(least <= value <= full for value in values)
    if not is_valid or full not in values:
        raise UserError(
            f"space.{key} is {values}. Give numbers from {least} to {full}, with {full} (the network's "
            f"own) among them."
        )
    _check_widths(job, key, values, full, unit)
    return tuple(sorted(set(values)))


def _default_choices(job: Job, key: str, full: int, unit: int) -> tuple[int, ...]:
    """Return the paper's choices of one dimension; see `_choices`."""
    step = width_step(job.budget)
    proportions = PAPER_PROPORTIONS[key]
    if key == "depth":
        if step > 1:
            proportions = (*SMALL_DEPTHS, *proportions)
        return tuple(sorted({max(1, round(full * proportion)) for proportion in proportions}))

    # So many heads or neurons have a width that is a multiple of the step.
    stride = step // math.gcd(step, unit)
    values = {max(1, round(full * proportion / stride)) * stride for proportion in proportions}
    return tuple(sorted({full, *(value for value in values if value < full)}))


def _check_widths(job: Job, key: str, values: Sequence[int], full: int, unit: int) -> None:
    """Refuse widths that a device computes as slowly as the next multiple of its registers.

    Raises:
        UserError: The job has a budget for a device, and a choice is not a multiple.
    """
    step = width_step(job.budget)
    uneven = [value for value in values if value * unit % step and value != full]
    if key == "depth" or not uneven:
        return

    stride = step // math.gcd(step, unit)
    # Two choices can have the same nearest multiple.
    nearest = sorted({min(full, max(1, round(value / stride)) * stride) for value in uneven})
    raise UserError(
        f"space.{key} has {', '.join(map(str, uneven))}. With a budget for a device, widths must be "
        f"multiples of {step}: a device takes as long for the widths between. Use "
        f"{', '.join(map(str, nearest))} instead."
    )

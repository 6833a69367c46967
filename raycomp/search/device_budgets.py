"""The costs of budgets that do not follow from shapes: measured limits, and several limits at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.config.budget import BUDGET_KINDS, SEVERAL, BudgetSettings, parse_quantity
from raycomp.config.job import Job
from raycomp.encoder.architecture import FULL_TABLE, Architecture
from raycomp.encoder.cost import CostFunction, CostModel, EncoderShape
from raycomp.encoder.device_table import Conditions, DeviceTable, describe_encoder, word_table_mb
from raycomp.errors import UserError, first_line
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.method_layout import MethodLayout

MAX_LENGTHS = 20
"""Numbers of tokens that stand for a file of lengths: evenly spaced in its sorted lines."""

TABLE_ERRORS = (KeyError, TypeError, ValueError, AttributeError)

Corrections = Mapping[str, Mapping[str, float]]
"""Budget -> quantity -> measured over predicted, of models that failed their certificate."""


@dataclass(frozen=True)
class DeviceState:
    """What the search knows about the devices of a job's budgets.

    Attributes:
        tables: Budget -> table of its device.
        corrections: See `Corrections`.
    """

    tables: Mapping[str, DeviceTable] = field(default_factory=dict)
    corrections: Corrections = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        tables = {name: table.to_dict() for name, table in self.tables.items()}
        return {"tables": tables, "corrections": {k: dict(v) for k, v in self.corrections.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeviceState:
        """Read what `to_dict` returned, also after JSON."""
        tables = {name: DeviceTable.from_dict(table) for name, table in data["tables"].items()}
        return cls(tables, data.get("corrections", {}))


class BudgetCosts:
    """Keys, limits and cost functions of budgets.

    Args:
        base: Costs that are computed from the shapes.
        largest: The full network. A limit such as "0.5x" refers to it.
        state: Tables of devices.
    """

    def __init__(self, base: CostModel, largest: Architecture, state: DeviceState) -> None:
        self._base = base
        self._largest = largest
        self._state = state

    def is_known(self, budget: BudgetSettings) -> bool:
        """Return whether costs can be computed: a budget for a device needs a table."""
        return not budget.is_for_device or budget.name in self._state.tables

    def key(self, budget: BudgetSettings) -> str:
        """Return the name of a budget's cost function. Budgets with the same name can form a group."""
        if budget.kind in BUDGET_KINDS:
            return budget.kind

        # Limits of several kinds are not comparable: such budgets are not searched together.
        if budget.kind == SEVERAL or not self.is_known(budget):
            return f"{budget.kind} of {budget.name}"

        # A corrected budget has a key of its own: its predictions are larger than those of the others.
        quantity = quantity_of(budget, budget.kind)
        conditions = self._state.tables[budget.name].conditions.describe()
        return f"{quantity} in {conditions}, times {self._factor(budget, quantity)!r}"

    def limits(self, budget: BudgetSettings) -> dict[str, float]:
        """Return the limits of a budget as numbers, by kind."""
        return {
            kind: parse_quantity(limit, self.predict(budget, kind, self._largest))
            if isinstance(limit, str)
            else float(limit)
            for kind, limit in budget.limits.items()
        }

    def limit(self, budget: BudgetSettings) -> float:
        """Return the largest cost that meets a budget: 1 for several limits, whose cost is a share."""
        limits = self.limits(budget)
        return 1.0 if budget.kind == SEVERAL else limits[budget.kind]

    def function(self, budget: BudgetSettings) -> CostFunction:
        """Return the cost function of a budget.

        Raises:
            UserError: The budget is for a device, and no table is known.
        """
        if budget.kind != SEVERAL:
            return lambda arch: self.cost_of_kind(budget, budget.kind, arch)

        # At most 1 where every limit is met.
        limits = self.limits(budget)
        return lambda arch: max(
            self.cost_of_kind(budget, kind, arch) / limit for kind, limit in limits.items()
        )

    def cost_of_kind(self, budget: BudgetSettings, kind: str, arch: Architecture) -> float:
        """Return a network's cost of one kind, corrected by measurements of earlier models."""
        return self.predict(budget, kind, arch) * self._factor(budget, quantity_of(budget, kind))

    def predict(self, budget: BudgetSettings, kind: str, arch: Architecture) -> float:
        """Return a network's cost of one kind, without corrections.

        Raises:
            UserError: The kind is measured, and the budget lacks a table of its device.
        """
        if kind in BUDGET_KINDS:
            return float(self._base.cost(kind, arch))

        table = self._state.tables.get(budget.name)
        if table is None:
            raise UserError(
                f"Budget {budget.name}: {kind} is not known before the layers are measured. Run the job, "
                "or run `raycomp profile` and name its file in the budget's setting profile."
            )
        added_mb = 0.0
        if arch.table != FULL_TABLE:
            # The layers were measured with the full word table.
            full = self._base.cost("params", replace(arch, table=FULL_TABLE))
            added = self._base.cost("params", arch) - full
            num_rows = self._base.table_rows(arch.table) - self._base.table_rows(FULL_TABLE)
            added_mb = word_table_mb(budget.runtime, added, num_rows)
        return table.predict(quantity_of(budget, kind), arch, added_mb)

    def _factor(self, budget: BudgetSettings, quantity: str) -> float:
        return float(self._state.corrections.get(budget.name, {}).get(quantity, 1.0))


def quantity_of(budget: BudgetSettings, kind: str) -> str:
    """Return what a table and a certificate call the quantity of a limit."""
    return "p95_ms" if kind == "latency_ms" and budget.percentile == 95 else kind


def conditions_of(job: Job, budget: BudgetSettings) -> Conditions:
    """Return where and how the files of a budget are measured.

    Raises:
        UserError: The file of lengths cannot be read.
    """
    lengths: tuple[int, ...] = (budget.length or job.task.max_length,)
    longest = None
    if budget.lengths is not None:
        lines = _read_lines(Path(budget.lengths), budget.name)
        lengths = _sample(lines)

        # A few long texts decide on memory, and are not in the sample.
        if lines[-1] > lengths[-1]:
            longest = lines[-1]

    return Conditions(budget.runtime, budget.threads, budget.batch, lengths, budget.device, longest)


def read_lengths(path: Path, name: str) -> tuple[int, ...]:
    """Return at most `MAX_LENGTHS` numbers of tokens that represent a file of lengths, ascending.

    Args:
        path: File with one whole number above 1 per line.
        name: Name of the budget; messages name it.

    Raises:
        UserError: The file cannot be read, or a line is not such a number.
    """
    return _sample(_read_lines(path, name))


def _read_lines(path: Path, name: str) -> list[int]:
    """Return the numbers of a file of lengths, ascending; see `read_lengths`."""
    try:
        lengths = sorted(int(line) for line in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise UserError(
            f"Budget {name}: the file of lengths {path} cannot be read ({first_line(error)}). Write one "
            "number of tokens per line."
        ) from None

    if not lengths or lengths[0] < 2:
        raise UserError(
            f"Budget {name}: the file of lengths {path} must have numbers of tokens above 1, one per "
            "line."
        )
    return lengths


def _sample(lengths: Sequence[int]) -> tuple[int, ...]:
    # Evenly spaced in the sorted lines, each number represents as many texts.
    places = (np.arange(min(MAX_LENGTHS, len(lengths))) + 0.5) * len(lengths)
    return tuple(lengths[int(place // min(MAX_LENGTHS, len(lengths)))] for place in places)


def read_profile(path: Path) -> list[DeviceTable]:
    """Return the tables of a file that `raycomp profile` wrote.

    Raises:
        UserError: The file cannot be read, or is not a profile.
    """
    if not path.exists():
        raise UserError(
            f"The profile {path} does not exist. Make it on the device with `raycomp profile JOB --out "
            f"{path}`, or leave the setting profile out: the run then measures this machine."
        )

    data = read_json(path)
    try:
        return [DeviceTable.from_dict(table) for table in data["tables"]]
    except TABLE_ERRORS as error:
        raise UserError(
            f"{path} is not a profile of raycomp ({first_line(error)}). Make it again with `raycomp "
            "profile`."
        ) from None


def find_recorded_tables(layout: RunLayout) -> dict[str, DeviceTable] | None:
    """Return the tables that a run has recorded, by budget; None before it has.

    Raises:
        UserError: The file is corrupted.
    """
    path = layout.devices.profile
    if not path.exists():
        return None

    # Another version of raycomp may have written it.
    data = read_json(path)
    try:
        return {str(name): DeviceTable.from_dict(table) for name, table in data.items()}
    except TABLE_ERRORS as error:
        raise UserError(
            f"{path} is corrupted ({first_line(error)}). Move it away and run the job again."
        ) from None


def read_corrections(files: MethodLayout) -> dict[str, dict[str, float]]:
    """Return the corrections that a method's certificates gave; see `Corrections`."""
    if not files.device_corrections.exists():
        return {}
    entries = read_json(files.device_corrections)
    return {name: dict(entry["factors"]) for name, entry in entries.items()}


def find_named_tables(job: Job, shape: EncoderShape) -> dict[str, DeviceTable]:
    """Return the tables of the budgets that name a profile, by budget.

    Raises:
        UserError: A profile cannot be read, or lacks a table for its budget.
    """
    return {
        budget.name: match_table(
            read_profile(Path(budget.profile)), conditions_of(job, budget), shape, budget
        )
        for budget in job.budget
        if budget.profile is not None
    }


def match_table(
    tables: Sequence[DeviceTable], conditions: Conditions, shape: EncoderShape, budget: BudgetSettings
) -> DeviceTable:
    """Return the table with a budget's conditions and encoder.

    Returns:
        The table, with these conditions.

    Raises:
        UserError: The profile lacks it.
    """
    own = [table for table in tables if dict(table.encoder) == describe_encoder(shape)]
    if not own:
        raise UserError(
            f"Budget {budget.name}: the profile {budget.profile} is of another encoder. Make it again "
            "with `raycomp profile` and this job."
        )

    # Times at other conditions say nothing about these: they are not scaled.
    # An earlier version did not record the longest text, which the times do not depend on.
    for accepted in (conditions, replace(conditions, longest=None)):
        for table in own:
            if table.conditions == accepted:
                return replace(table, conditions=conditions)

    present = "; ".join(table.conditions.describe() for table in own)
    raise UserError(
        f"Budget {budget.name} is for {conditions.describe()}, and the profile {budget.profile} has "
        f"{present}. Make it again with `raycomp profile` and this job, or change the budget."
    )

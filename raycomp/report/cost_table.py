"""The cost of each method of a run, summed from the rows of table `costs`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from raycomp.report.formatting import format_count, format_number
from raycomp.report.text_table import TextTable

COST_MEANINGS = {
    "method": "compression method, or the teacher, which all methods share",
    "once": "passes of the work that all budgets share",
    "budgets": "passes of the work for single budgets: their training, healing and pruning",
    "scoring": "passes of scoring networks on the selection split",
    "total": "sum of the three",
    "marginal": "passes of training for one further budget, the mean over the budgets",
    "tokens": "tokens of text that were read, once for each network that read them",
    "seconds": "wall time of all this work; work that runs in parallel counts each time",
}
UNIT = (
    "A pass is the FLOPs of training the full network for one pass over the training split. Forward "
    "passes of the teacher count in the work that needs them."
)


@dataclass(frozen=True)
class MethodCost:
    """The summed cost of a method; the attributes are columns of `COST_MEANINGS`.

    A sum is NaN where a version that did not count FLOPs trained a part of it.
    """

    run: str
    method: str
    once: float
    budgets: float
    scoring: float
    marginal: float
    tokens: float
    seconds: float

    @property
    def total(self) -> float:
        """Passes of all work."""
        return self.once + self.budgets + self.scoring


def sum_costs(costs: pd.DataFrame) -> list[MethodCost]:
    """Return the cost of each method of each run, in the order of the rows."""
    sums = []
    for (run, method), rows in costs.groupby(["run", "method"], sort=False):
        is_scoring = rows["work"] == "scoring"
        is_for_budget = rows["budget"].notna()
        # Budgets of methods that train nothing for them occur in the rows of scores.
        num_budgets = rows["budget"].nunique()
        budgets = _sum(rows[~is_scoring & is_for_budget]["passes"])
        sums.append(
            MethodCost(
                run=str(run),
                method=str(method),
                once=_sum(rows[~is_scoring & ~is_for_budget]["passes"]),
                budgets=budgets,
                scoring=_sum(rows[is_scoring]["passes"]),
                marginal=budgets / max(1, num_budgets),
                tokens=_sum(rows["tokens"]),
                seconds=_sum(rows["seconds"]),
            )
        )
    return sums


def _sum(column: pd.Series[float]) -> float:
    """Return the sum of a column; NaN if a value is missing."""
    return float(column.sum(skipna=False))


def build_cost_table(costs: pd.DataFrame) -> TextTable | None:
    """Return the cost of each method as a table; None without rows (runs of earlier versions).

    Args:
        costs: Table `costs` of one run or of several.
    """
    sums = sum_costs(costs)
    if not sums:
        return None
    has_several_runs = len({cost.run for cost in sums}) > 1
    columns = ["run"] * has_several_runs + list(COST_MEANINGS)
    rows = [[cost.run] * has_several_runs + _write_cost(cost) for cost in sums]
    return TextTable(f"Cost. {UNIT}", columns, rows, named=1 + has_several_runs)


def _write_cost(cost: MethodCost) -> list[str]:
    if cost.method == "teacher":
        # Budgets do not apply to the teacher.
        passes = [format_passes(cost.once), "", "", format_passes(cost.total), ""]
    else:
        figures = (cost.once, cost.budgets, cost.scoring, cost.total, cost.marginal)
        passes = [format_passes(value) for value in figures]
    return [cost.method, *passes, format_count(cost.tokens), format_number(cost.seconds, 0)]


def format_passes(value: float) -> str:
    """Return a number of passes with two decimals."""
    return format_number(value, 2)

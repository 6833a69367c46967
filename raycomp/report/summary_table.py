"""The summary table of runs: a row for each teacher and for each deployed model.

The terminal and the HTML page print this table. Its columns have the names of the columns of the table
`deployments`. A reader can therefore use a printed name in `raycomp query --where`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raycomp.config.budget import BUDGET_KINDS, DEVICE_KINDS, SEVERAL
from raycomp.report.formatting import (
    format_count,
    format_number,
    format_percent,
    format_score,
    format_signed,
    format_text,
    is_finite_number,
)
from raycomp.report.loading import RunRecord, RunTables
from raycomp.report.shortfall import describe_shortfall
from raycomp.report.teacher_scores import derive_teacher_costs
from raycomp.report.weak_teacher import find_teacher_warnings

# Each column with its meaning, in the order in which every table of raycomp prints them.
COLUMN_MEANINGS = {
    "method": "compression method, or the teacher",
    "budget": "name of the budget, or of the CNN's settings",
    "kind": "quantity that the budget limits; encoder_params counts the Transformer layers only; "
    "limits: several quantities, and the cost is the largest used share; "
    "beta: AdaBERT has a size penalty instead of a limit",
    "limit": "largest cost that the budget allows",
    "cost": "cost of the deployed model, counted on the exported model after it was loaded again, or "
    "measured in its runtime",
    "used_share": "cost divided by limit",
    "params": "parameters of the whole model, embeddings included",
    "params_ratio": "params divided by the teacher's params",
    "vocab_size": "tokens of the word table; the vocabulary of some models is cut to the task",
    "word_rank": "rank of the word table, where it is the product of two matrices",
    "latency_ms": "median time of one forward pass of one sequence in PyTorch (fp32) on the run's CPU, "
    "in milliseconds; a budget's latency_ms limits the exported file in its runtime, which cost has",
    "inherited": "selection score of the best network of the search, with the super-network's weights",
    "healed": "selection score of the best network after healing",
    "selection": "score of the deployed model on the selection split, which was used to choose it",
    "validation": "score on the validation split, which was never used for model selection",
    "gap": "selection minus validation; a large gap means that the selection score is optimistic",
    "retention": "validation divided by the teacher's validation score",
    "verdict": "of a budget for a device: PASS if the measured file meets its limits; NOT CERTIFIED if "
    "time and memory are not judged, because the machine of the run is not the device",
    "warning": "chance: not shown to be better than a constant answer; low retention: below the smallest "
    "retention that the budget asks for",
    "finetuned": "validation score after the extracted network was fine-tuned again; the other columns "
    "describe the network before that",
}
OPTIONAL_COLUMNS = ("vocab_size", "word_rank", "inherited", "healed", "verdict", "warning", "finetuned")
COLUMNS = tuple(name for name in COLUMN_MEANINGS if name not in OPTIONAL_COLUMNS)
TEXT_COLUMNS = ("method", "budget", "kind")
LIMITED_KINDS = (*BUDGET_KINDS, *DEVICE_KINDS, SEVERAL)


@dataclass(frozen=True)
class SummaryRow:
    """One row of the summary table.

    Attributes:
        run: Name of the run.
        is_teacher: Whether the row describes the run's teacher.
        cells: Column name -> text; a column that does not apply is missing.
    """

    run: str
    is_teacher: bool
    cells: dict[str, str]


@dataclass(frozen=True)
class SummaryTable:
    """The summary of one run or of several comparable runs.

    Attributes:
        columns: Names of the columns, in order.
        rows: Rows of each run, the teacher's first.
        notes: Sentences on budgets that were not met and on runs without a deployed model.
        warnings: Sentences on weak teachers.
    """

    columns: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def cells(self, row: SummaryRow, columns: tuple[str, ...] | None = None) -> list[str]:
        """Return the texts of a row, one for each column, or for each of some columns."""
        return [row.cells.get(name, "") for name in columns or self.columns]

    def meanings(self) -> dict[str, str]:
        """Return column -> what it means."""
        return {name: COLUMN_MEANINGS[name] for name in self.columns}


def build_summary_table(tables: RunTables) -> SummaryTable:
    """Build the summary table of runs that have one task and one metric."""
    rows: list[SummaryRow] = []
    notes: list[str] = []
    warnings: list[str] = []
    for run in tables.runs:
        run_tables = tables.of(run.name)
        prefix = f"{run.name}: " if len(tables.runs) > 1 else ""
        warnings += [prefix + warning for warning in find_teacher_warnings(run_tables, run)]
        if run.teacher:
            rows.append(SummaryRow(run.name, True, _teacher_cells(run_tables, run)))

        for row in run_tables.deployments.to_dict("records"):
            rows.append(SummaryRow(run.name, False, _deployment_cells(row, run)))
            if not row["feasible"]:
                reason = row["reason"] or "no architecture met the budget"
                notes.append(f"Budget {row['budget']} was not met: {reason}.")
            if shortfall := describe_shortfall(row, run.job):
                notes.append(shortfall)

        if run_tables.deployments.empty:
            notes.append(f"Run {run.name} has not deployed a model yet.")
    used = {name for row in rows for name in row.cells}
    columns = tuple(name for name in COLUMN_MEANINGS if name in COLUMNS or name in used)
    return SummaryTable(columns, tuple(rows), tuple(notes), tuple(warnings))


def _teacher_cells(tables: RunTables, run: RunRecord) -> dict[str, str]:
    costs = derive_teacher_costs(tables, run)
    selection = run.teacher_score("selection")
    validation = run.teacher_score("validation")
    gap = None
    if selection is not None and validation is not None:
        gap = selection - validation

    return {
        "method": "teacher",
        "params": format_count(costs["params"]),
        "params_ratio": "1.00",
        "latency_ms": format_number(costs["latency_ms"], 1),
        "selection": format_score(selection),
        "validation": format_score(validation),
        "gap": format_signed(gap),
        "retention": "100.0%",
    }


def _deployment_cells(row: dict[Any, Any], run: RunRecord) -> dict[str, str]:
    cells = {
        "method": str(row["method"]),
        "budget": str(row["budget"]),
        "kind": format_text(row["kind"]),
    }
    if row["kind"] in LIMITED_KINDS:
        cells["limit"] = format_count(row["limit"])
    if not row["feasible"]:
        return {**cells, "used_share": "not met"}

    if row["kind"] in LIMITED_KINDS:
        cells["cost"] = format_count(row["cost"])
        cells["used_share"] = format_number(_used_share(row), 2)

    gap = row["gap"]
    # Runs of older versions lack the column `gap`.
    if not is_finite_number(gap):
        gap = row["selection"] - row["validation"]

    cells |= {
        "params": format_count(row["params"]),
        "params_ratio": format_number(row["params_ratio"], 2),
        "latency_ms": format_number(row["latency_ms"], 1),
        "selection": format_score(row["selection"]),
        "validation": format_score(row["validation"]),
        "gap": format_signed(gap),
        "retention": format_percent(row["retention"]),
    }
    is_cut = "task" in (run.setting("embeddings", "vocabulary") or [])
    if is_cut and is_finite_number(row["vocab_size"]):
        cells["vocab_size"] = format_count(row["vocab_size"])
    if is_finite_number(row["word_rank"]):
        cells["word_rank"] = format_count(row["word_rank"])
    if is_finite_number(row["healed"]):
        cells |= {"inherited": format_score(row["inherited"]), "healed": format_score(row["healed"])}
    if isinstance(row["verdict"], str):
        cells["verdict"] = row["verdict"]
    if isinstance(row["warning"], str):
        cells["warning"] = row["warning"]
    if row["method"] == "yoco" and row["budget"] in run.tuned:
        cells["finetuned"] = format_score(run.tuned[row["budget"]].get("validation"))
    return cells


def _used_share(row: dict[Any, Any]) -> float | None:
    """Return cost over limit; runs of older versions lack a column for it."""
    if is_finite_number(row["used_share"]):
        return float(row["used_share"])
    if is_finite_number(row["cost"]) and is_finite_number(row["limit"]) and row["limit"] > 0:
        return float(row["cost"] / row["limit"])
    return None

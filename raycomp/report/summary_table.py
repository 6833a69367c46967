"""The first table of the page: each deployment, and its teacher."""

from __future__ import annotations

from typing import Any

from raycomp.report.formatting import (
    KIND_UNITS,
    format_count,
    format_latency,
    format_percent,
    format_score,
    format_signed,
    is_finite_number,
)
from raycomp.report.loading import RunRecord, RunTables
from raycomp.report.teacher_scores import derive_teacher_costs

COLUMNS = (
    "method", "budget", "limit", "used", "params", "of full", "selection", "validation", "gap",
    "kept", "p50 latency",
)  # fmt: skip


def build_summary_table(tables: RunTables) -> dict[str, Any]:
    """Return `columns`, `rows` (a run's teacher first) and `notes` on budgets that were not met."""
    rows, notes = [], []
    tuned = any(run.tuned for run in tables.runs)  # then there is a column of the tuned scores
    for run in tables.runs:
        mine = tables.of(run.name)
        if run.teacher:
            cells = _teacher(mine, run) + [""] * tuned
            rows.append({"run": run.name, "teacher": True, "cells": cells})
        for row in mine.deployments.to_dict("records"):
            found = run.tuned.get(row["budget"], {}) if row["method"] == "yoco" else {}
            cells = _cells(row) + [format_score(found.get("validation"))] * tuned
            rows.append({"run": run.name, "teacher": False, "cells": cells})
            if not row["feasible"]:
                notes.append(f"{row['budget']}: {row['reason'] or 'no architecture met the budget'}")
        if mine.deployments.empty:
            notes.append(f"{run.name}: nothing is deployed yet")
    if tuned:
        notes.append("Fine-tuned: validation after fine-tuning on its own; all else is before it")
    return {"columns": COLUMNS + ("fine-tuned",) * tuned, "rows": rows, "notes": notes}


def _teacher(tables: RunTables, run: RunRecord) -> list[str]:
    costs = derive_teacher_costs(tables, run)
    selection, validation = run.teacher_score("selection"), run.teacher_score("validation")
    gap = selection - validation if selection is not None and validation is not None else None
    return [
        "teacher", "", "", "", format_count(costs["params"]), "1.00", format_score(selection),
        format_score(validation),
        format_signed(gap), "100.0%", format_latency(costs["latency_ms"]),
    ]  # fmt: skip


def _cells(row: dict[Any, Any]) -> list[str]:
    searched = row["kind"] == "beta"  # a CNN is searched under a price, not under a limit
    if not row["feasible"]:
        limit = f"{format_count(row['limit'])} {KIND_UNITS.get(row['kind'], row['kind'])}"
        return [str(row["method"]), str(row["budget"]), limit, "not met", *[""] * 7]
    gap = row["gap"] if is_finite_number(row["gap"]) else row["selection"] - row["validation"]
    return [
        str(row["method"]),
        str(row["budget"]),
        "" if searched else f"{format_count(row['limit'])} {KIND_UNITS.get(row['kind'], row['kind'])}",
        "" if searched else format_count(row["cost"]),
        format_count(row["params"]),
        f"{row['params_ratio']:.2f}" if is_finite_number(row["params_ratio"]) else "",
        format_score(row["selection"]),
        format_score(row["validation"]),
        format_signed(gap),
        format_percent(row["retention"]),
        format_latency(row["latency_ms"]),
    ]

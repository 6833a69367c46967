"""Write a deployed model again, into any directory, from the weights that a run trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_stored
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.runtime.pipeline.deploy import export_deployable
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table


def export_budget(run_dir: Path, budget: str, out: Path) -> dict[str, Any]:
    """Extract, verify and write the model of one budget.

    Args:
        run_dir: The run directory.
        budget: Name of the budget; "METHOD-BUDGET" where several methods have a budget of this name.
        out: New directory for the model.

    Returns:
        `out`, `arch`, `params` (counted on the loaded model) and `parity` (largest difference of a
        logit).

    Raises:
        UserError: The budget is unknown or was not met, or `out` exists and is not empty.
    """
    if out.is_symlink():
        raise UserError(f"{out} is a symbolic link. Name a new directory.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty. Name a new directory.")

    row = _find_row(run_dir, budget)
    run_dir = run_dir.resolve()
    job = parse_stored(read_json(RunLayout(run_dir).job))
    context = RunContext(job, run_dir, method=str(row["method"]))
    method = load_method_class(context.method)()

    deployable = method.restore(context, row)
    scores = {key: row[key] for key in ("validation", "teacher_validation")}
    proof = export_deployable(context, deployable, out.resolve(), scores)
    return {
        "out": str(out),
        "arch": row["arch"],
        "params": proof["params"],
        "parity": proof["max_logit_difference"],
    }


def _find_row(run_dir: Path, budget: str) -> dict[str, Any]:
    """Return the row of table `deployments` of a budget that was met."""
    frame = read_table(run_dir, "deployments")
    frame = frame[frame["arch"].notna()]
    full_names = frame["method"] + "-" + frame["budget"]
    rows = frame[(frame["budget"] == budget) | (full_names == budget)]
    if rows.empty:
        names = ", ".join(frame["budget"]) or "none yet"
        raise UserError(
            f"Run {run_dir.name} did not deploy a model for budget {budget!r}. Deployed budgets: {names}."
        )
    if len(rows) > 1:
        names = ", ".join(full_names[rows.index])
        raise UserError(
            f"Several methods of run {run_dir.name} deployed a budget {budget!r}. Choose one of: {names}."
        )
    return {str(key): value for key, value in rows.iloc[0].to_dict().items()}

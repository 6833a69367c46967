"""Write a deployed model again, anywhere, from what a run trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_stored
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.adabert_deploy import export_child, trials
from raycomp.runtime.pipeline.deploy import export_arch
from raycomp.runtime.training.distillation_data import DistillationData
from raycomp.storage.files import read_json
from raycomp.storage.tables import read_table


def export_budget(run_dir: Path, budget: str, out: Path) -> dict[str, Any]:
    """Extract, verify and write the model of one budget.

    Raises:
        UserError: the budget is unknown or was not met, or `out` exists and is not empty.
    """
    if out.is_symlink():
        raise UserError(f"{out} is a link; name a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; name a new folder")
    frame = read_table(run_dir, "deployments")
    found = frame[(frame["budget"] == budget) & frame["arch"].notna()]
    if found.empty:
        names = ", ".join(frame.loc[frame["arch"].notna(), "budget"]) or "none yet"
        raise UserError(f"run {run_dir.name} has no deployed budget {budget!r}; it has: {names}")
    row = found.iloc[0]
    run_dir = run_dir.resolve()
    job = parse_stored(read_json(run_dir / "job.json"))
    figures = {k: row[k] for k in ("budget", "selection", "validation", "teacher_validation")}
    if row["method"] == "adabert":
        trial = next((t for t in trials(job) if (t.setting, t.seed) == (budget, row["seed"])), None)
        if trial is None:
            raise UserError(f"run {run_dir.name} has no trial {budget!r}; job.json names others")
        proof, _ = export_child(DistillationData(job, run_dir), trial, out.resolve(), figures)
    else:
        context = RunContext(job, run_dir)
        arch = Architecture.from_json(row["arch"])
        proof = export_arch(context, context.supernet().eval(), arch, out.resolve(), figures)
    return {
        "out": str(out),
        "arch": row["arch"],
        "params": proof["params"],
        "parity": proof["max_logit_difference"],
    }

"""Write a deployed model again, into any directory, from the weights that a run trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_stored
from raycomp.deployment.family_page import write_family_page
from raycomp.deployment.format_settings import FormatSettings
from raycomp.errors import UserError
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.report.shortfall import describe_shortfall
from raycomp.runtime.pipeline.budget_limits import with_budget_conditions
from raycomp.runtime.pipeline.deploy import export_deployable
from raycomp.runtime.pipeline.export_formats import TEACHER, export_formats, teacher_deployable
from raycomp.runtime.pipeline.plain_form import in_plain_form
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table


def export_budget(
    run_dir: Path, budget: str, out: Path, settings: FormatSettings | None = None
) -> dict[str, Any]:
    """Extract, verify and write the model of one budget.

    Args:
        run_dir: The run directory.
        budget: Name of the budget; "METHOD-BUDGET" where several methods have a budget of this name, or
            "teacher".
        out: New directory for the model.
        settings: Formats to write and to measure; None writes the folder of transformers only.

    Returns:
        `out`, `arch`, `params` (counted on the loaded model), `parity` (largest difference of a
        logit), and with formats the whole certificate.

    Raises:
        UserError: The budget is unknown or was not met, `out` exists and is not empty, or a conversion
            failed.
    """
    _check_new(out)
    row = find_row(run_dir, budget)
    if settings is not None:
        settings = _at_conditions(run_dir, settings, [str(row["budget"])])

    return _export_row(run_dir.resolve(), row, out, settings)


def export_family(
    run_dir: Path, out: Path, settings: FormatSettings, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Write the teacher and the models of all budgets, each with its certificate, and an index page.

    Args:
        run_dir: The run directory.
        out: New directory; each model gets a folder in it.
        settings: Formats to write and to measure.
        say: Function that shows one line about each finished model.

    Returns:
        The certificates. Their key `out` has the folder.

    Raises:
        UserError: The run has not deployed a model, `out` exists and is not empty, or a conversion
            failed. Folders that are complete stay.
    """
    _check_new(out)
    certificates = []
    rows = {name: find_row(run_dir, name) for name in list_models(run_dir)}
    settings = _at_conditions(run_dir, settings, [str(row["budget"]) for row in rows.values()])

    for name, row in rows.items():
        certificate = _export_row(run_dir.resolve(), row, out / name, settings)
        certificates.append({**certificate, "out": name})
        say(f"{out / name}: {certificate['verdict']}. {' '.join(certificate['notes'])}".rstrip())
        # The page is complete for the models so far, also if a later one fails.
        write_family_page(out, run_dir.name, certificates)

    return certificates


def _at_conditions(run_dir: Path, settings: FormatSettings, budgets: Sequence[str]) -> FormatSettings:
    """Return settings with the conditions of the budgets, where the user chose none."""
    job = parse_stored(read_json(RunLayout(run_dir).job))
    return with_budget_conditions(RunContext(job, run_dir.resolve()), budgets, settings)


def list_models(run_dir: Path) -> list[str]:
    """Return "teacher", and the METHOD-BUDGET of each deployed model.

    Raises:
        UserError: The run has not deployed a model.
    """
    frame = read_table(run_dir, "deployments")
    names = [f"{row.method}-{row.budget}" for row in frame[frame["arch"].notna()].itertuples()]
    if not names:
        raise UserError(f"Run {run_dir.name} has not deployed a model yet. Wait for it, or resume it.")

    # The teacher comes first: the other models are compared with it.
    return [TEACHER, *names]


def _check_new(out: Path) -> None:
    if out.is_symlink():
        raise UserError(f"{out} is a symbolic link. Name a new directory.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty. Name a new directory.")


def _export_row(
    run_dir: Path, row: dict[str, Any], out: Path, settings: FormatSettings | None
) -> dict[str, Any]:
    context, deployable = _restore(run_dir, row)
    figures = {key: row[key] for key in ("validation", "teacher_validation")}
    figures["warning"] = describe_shortfall(row, context.job.model_dump(mode="json"))
    if settings is not None:
        certificate = export_formats(context, deployable, out.resolve(), figures, settings)
        return {"out": str(out), **certificate}

    proof = export_deployable(context, in_plain_form(context, deployable), out.resolve(), figures)

    return {
        "out": str(out),
        "arch": deployable.arch,
        "params": proof["params"],
        "parity": proof["max_logit_difference"],
    }


def _restore(run_dir: Path, row: dict[str, Any]) -> tuple[RunContext, Deployable]:
    """Return the context and the deployable of a row."""
    job = parse_stored(read_json(RunLayout(run_dir).job))
    if row["method"] == TEACHER:
        context = RunContext(job, run_dir, method=job.run.methods[0])
        score = context.teacher_validation()
        row |= {"validation": score, "teacher_validation": score}
        return context, teacher_deployable(context)

    context = RunContext(job, run_dir, method=str(row["method"]))
    return context, load_method_class(context.method)().restore(context, row)


def find_row(run_dir: Path, budget: str) -> dict[str, Any]:
    """Return the row of table `deployments` of a budget that was met, or a row of the teacher.

    Args:
        run_dir: The run directory.
        budget: As in `export_budget`.

    Raises:
        UserError: The budget lacks a model, or several methods have one.
    """
    frame = read_table(run_dir, "deployments")
    frame = frame[frame["arch"].notna()]
    full_names = frame["method"] + "-" + frame["budget"]
    rows = frame[(frame["budget"] == budget) | (full_names == budget)]
    # A budget of the user's that is called "teacher" comes first.
    if rows.empty and budget == TEACHER and RunLayout(run_dir).teacher_score.exists():
        return {"method": TEACHER, "budget": TEACHER}
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

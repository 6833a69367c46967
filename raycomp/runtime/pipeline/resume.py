"""What a run does before it resumes: it checks its tables, and says how far it came."""

from __future__ import annotations

from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.scoring.deployment_search import delete_outcomes
from raycomp.runtime.scoring.ledger import missing_parts, record_parts
from raycomp.storage.files import read_json
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import part_files, read_table


def repair_tables(context: RunContext, progress: Progress) -> None:
    """Check the tables of an interrupted run; rows of missing files are written again by their stages.

    Args:
        context: The run's context.
        progress: Shows what is repeated.

    Raises:
        UserError: A file of a table is damaged. It is named, before anything is started.
    """
    run_dir = context.run_dir
    tables = {name: read_table(run_dir, name) for name in SCHEMAS}

    missing = missing_parts(run_dir)
    if missing:
        progress.say(
            f"The table of evaluations lacks {', '.join(missing)}: these evaluations are scored again."
        )
        for name in context.job.run.methods:
            if any(context.layout.method(name).search_outcomes()):
                delete_outcomes(run_dir, name)
                _run_again(context, name)
        record_parts(run_dir)

    parts = {path.stem for path in part_files(run_dir, "evaluations")}
    deployed = set(tables["deployments"]["method"])
    for name in context.job.run.methods:
        messages = load_method_class(name)().forget_lost_results(context.for_method(name), parts)
        for message in messages:
            progress.say(message)
        if messages or name not in deployed:
            _run_again(context, name)


def _run_again(context: RunContext, method: str) -> None:
    """Let a method run again: it repeats only what is missing."""
    context.layout.summary(method).unlink(missing_ok=True)


def describe_progress(context: RunContext) -> str:
    """Say how far an earlier start came: "teacher done, supernet at step 40 of 90, yoco not deployed"."""
    layout = context.layout
    parts = ["teacher done" if layout.teacher_score.exists() else "teacher not done"]
    for path in sorted(layout.progress_dir.glob("*.json")):
        if path.stem != "teacher":
            progress = read_json(path)
            done, total = progress.get("done", 0), progress.get("total", 0)
            phase = f" (phase {progress['phase']})" if progress.get("phase") else ""
            title = "super-network" if path.stem == "supernet" else path.stem
            parts.append(f"{title} at step {done:,} of {total:,}{phase}")
    for name in context.job.run.methods:
        is_deployed = layout.summary(name).exists()
        parts.append(f"{name} deployed" if is_deployed else f"{name} not deployed")
    return ", ".join(parts)

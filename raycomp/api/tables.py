"""Reading the tables of a run, with the conditions of `raycomp query`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from raycomp.errors import UserError
from raycomp.report.ablation_forms import with_explicit_columns
from raycomp.report.loading import check_job_file
from raycomp.report.query import filter_rows, get_column
from raycomp.report.run_record import read_finetuned_scores
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table


def explain_no_match(run: str, deployed: pd.DataFrame, where: str | None) -> str:
    """Return the message that no deployment of a run satisfies a condition."""
    if deployed.empty:
        return f"Run {run} has not deployed a model yet. Wait for it, or resume it."
    models = ", ".join(
        f"{budget} ({params / 1e6:.1f}M parameters, {latency:.1f} ms)"
        for budget, params, latency in zip(
            deployed["budget"], deployed["params"], deployed["latency_ms"], strict=True
        )
    )
    return (
        f"No deployment of run {run} satisfies {where!r}. Relax the condition, or add a smaller budget. "
        f"Deployments: {models}."
    )


def read_rows(
    run_dir: Path, table: str, where: str | None = None, best: str | None = None
) -> pd.DataFrame:
    """Return the rows of a table that satisfy a condition.

    Args:
        run_dir: Run directory, or the directory of a study for its table "ablations".
        table: Name of the table.
        where: Condition such as "params < 12e6 and feasible"; None takes every row.
        best: Column of numbers; only the row with the highest value in it is returned. None takes all.

    Raises:
        UserError: The table, the condition or the column is not valid, or a file is damaged.
    """
    frame = _add_names(read_table(run_dir, table), run_dir, table)
    if where is not None:
        frame = filter_rows(frame, where)
    if best is None:
        return frame

    values = get_column(frame, best)
    if values.dtype.kind not in "iufb":
        raise UserError(f"The column {best!r} does not contain numbers. Name a column that does.")
    # Before the first deployment every value is missing, and idxmax would raise an exception.
    if not values.notna().any():
        return frame.iloc[:0]
    return frame.loc[[values.idxmax()]]


def _add_names(frame: pd.DataFrame, run_dir: Path, table: str) -> pd.DataFrame:
    """Return a table with the names that the report prints: also of rows that earlier versions wrote."""
    if table == "ablations":
        return with_explicit_columns(frame)
    if table == "deployments" and (scores := read_finetuned_scores(run_dir)):
        is_yoco = frame["method"] == "yoco"
        return frame.assign(finetuned=frame["budget"].map(scores).where(is_yoco).astype("float64"))
    return frame


def require_run(run_dir: Path) -> None:
    """Raise UserError if a directory is not a run directory.

    Raises:
        UserError: The directory lacks the job.json of a run; the message names run directories next to
            it.
    """
    if RunLayout(run_dir).job.exists():
        check_job_file(run_dir)
        return

    neighbours = sorted(path.name for path in run_dir.parent.glob("*-????????"))[:5]
    hint = f" Run directories in {run_dir.parent}: {', '.join(neighbours)}." if neighbours else ""
    raise UserError(
        f"{run_dir} is not a run directory: job.json is missing. Name a directory that `raycomp run` "
        f"wrote.{hint}"
    )

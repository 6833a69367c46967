"""The ablation table: one row for each variant, task and budget of a study, with its statistics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.report.predictions import TEACHER, Predictions, load_predictions
from raycomp.report.statistics import compare_variants, estimate_mean
from raycomp.report.study_results import StudyResults, as_study_results

REFERENCE = "reference"  # verdict of the first variant, and of the teacher
COLUMNS = (
    "task", "budget", "metric", "variant", "seeds", "mean", "sd", "low", "high", "basis", "published",
    "gap", "params", "examples", "difference", "difference_low", "difference_high", "p", "pairs", "test",
    "verdict",
)  # fmt: skip


def ablation_table(study: str | Path | StudyResults, draws_seed: int = 0) -> pd.DataFrame:
    """Return one row for each task, budget and variant: mean, spread, interval, and the paired test.

    Example:
        >>> table = ablation_table("runs/eesng-739f32a2")           # doctest: +SKIP
        >>> table[table["verdict"] == "higher"]                     # doctest: +SKIP

    Args:
        study: A study, or its directory.
        draws_seed: Seed of the bootstrap's random draws; the same seed gives the same intervals.

    Returns:
        Columns COLUMNS. `low` and `high` bound the mean. `difference`, `difference_low` and
        `difference_high` compare the variant with the first variant, on the seeds that both have;
        `verdict` says in words what the test shows. The teacher is a variant that is not tested.
        `published` is the paper's figure. The table is empty until the first run has finished.

    Raises:
        UserError: As `load_study_results`.
    """
    results = as_study_results(study)
    # A page reads the table several times, and the bootstrap of its rows takes most of the page's time.
    if draws_seed not in results.ablation_tables:
        results.ablation_tables[draws_seed] = _build_table(results, draws_seed)
    return results.ablation_tables[draws_seed].copy()


def _build_table(results: StudyResults, draws_seed: int) -> pd.DataFrame:
    frame = results.frame
    scores = frame[frame["kind"] == "score"]

    table: list[dict[str, Any]] = []
    for task in results.tasks:
        task_rows = scores[scores["task"] == task]
        is_teacher = task_rows["method"] == TEACHER
        # Several budgets of a run repeat its teacher.
        teacher_rows = task_rows[is_teacher].drop_duplicates("seed")
        if len(teacher_rows):
            table.append(_build_row(results, teacher_rows.assign(variant=TEACHER), None, draws_seed))
        table += _build_task_rows(results, task_rows[~is_teacher], draws_seed)
    return pd.DataFrame(table, columns=list(COLUMNS))


def _build_task_rows(
    results: StudyResults, task_rows: pd.DataFrame, draws_seed: int
) -> list[dict[str, Any]]:
    """Return the rows of one task: each budget, and in it each variant against the first."""
    reference = results.variants[0]
    table = []
    for budget in dict.fromkeys(task_rows["budget"]):
        budget_rows = task_rows[task_rows["budget"] == budget]
        reference_rows = budget_rows[budget_rows["variant"] == reference]
        # The row of a variant is missing until its first run has finished.
        for variant in results.variants:
            rows = budget_rows[budget_rows["variant"] == variant]
            if rows.empty:
                continue
            against = None if variant == reference else reference_rows
            table.append(_build_row(results, rows, against, draws_seed))
    return table


def _build_row(
    results: StudyResults, rows: pd.DataFrame, reference_rows: pd.DataFrame | None, draws_seed: int
) -> dict[str, Any]:
    """Return one row of the table.

    Args:
        results: The study.
        rows: Rows of one variant, one for each seed.
        reference_rows: Rows of the variant that it is tested against; None for no test.
        draws_seed: Seed of the bootstrap's random draws.
    """
    rows = rows.sort_values("seed")
    head = rows.iloc[0]
    metric = str(head["metric"])
    estimate = estimate_mean(
        rows["value"].tolist(), metric, _load_all_predictions(results, rows), draws_seed
    )
    row = {
        "task": head["task"],
        "budget": head["budget"],
        "metric": metric,
        "variant": head["variant"],
        "seeds": estimate.seeds,
        "mean": estimate.mean,
        "sd": estimate.sd,
        "low": estimate.low,
        "high": estimate.high,
        "basis": estimate.basis,
        "published": head["published"],
        "gap": rows["gap"].mean(),
        "params": rows["params"].mean(),
        "examples": head["examples"],
    }
    return row | _compare_with_reference(results, rows, reference_rows, metric, draws_seed)


def _compare_with_reference(
    results: StudyResults,
    rows: pd.DataFrame,
    reference_rows: pd.DataFrame | None,
    metric: str,
    draws_seed: int,
) -> dict[str, Any]:
    """Return the columns of the paired test."""
    if reference_rows is None:
        numbers = dict.fromkeys(("difference", "difference_low", "difference_high", "p"), math.nan)
        return {**numbers, "pairs": 0, "test": "", "verdict": REFERENCE}

    # A paired test needs the same seeds in the same order.
    common_seeds = sorted(set(rows["seed"]) & set(reference_rows["seed"]))
    own = rows.set_index("seed").loc[common_seeds].reset_index()
    reference = reference_rows.set_index("seed").loc[common_seeds].reset_index()

    own_predictions = _load_all_predictions(results, own)
    reference_predictions = _load_all_predictions(results, reference)
    predictions = None
    if own_predictions is not None and reference_predictions is not None:
        predictions = (own_predictions, reference_predictions)

    comparison = compare_variants(
        own["value"].tolist(), reference["value"].tolist(), metric, predictions, draws_seed
    )
    return {
        "difference": comparison.difference,
        "difference_low": comparison.low,
        "difference_high": comparison.high,
        "p": comparison.p,
        "pairs": comparison.pairs,
        "test": comparison.test,
        "verdict": comparison.verdict,
    }


def _load_all_predictions(results: StudyResults, rows: pd.DataFrame) -> list[Predictions] | None:
    """Return the outputs behind each row; None if those of one row are missing."""
    models: list[Predictions] = []
    for row in rows.to_dict("records"):
        run_dir = results.run_dir(str(row["run"]))
        model = load_predictions(
            run_dir, str(row["method"]), str(row["budget"]), str(row["metric"]), float(row["value"])
        )
        if model is None:
            return None
        models.append(model)
    return models or None

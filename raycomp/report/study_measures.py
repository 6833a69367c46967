"""What else a study measured: rank agreement, the progress of searches, wall time, break-even."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from raycomp.report.statistics import break_even_budgets, kendall_tau
from raycomp.report.study_costs import METHOD_METRICS
from raycomp.report.study_results import StudyResults, as_study_results

# Stages of a run that are paid for each budget, or once for the super-network.
SUPERNET_STAGES = ("super-network", "search", "deploy")


def rank_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return how well inherited scores rank sub-networks, one row for each variant, task and seed.

    Args:
        study: A study, or its directory.

    Returns:
        Columns variant, task, seed, networks, `tau` (Kendall's tau of the inherited scores and the scores
        after fine-tuning each sub-network separately), `p`, `above_chance` (number of sub-networks whose
        inherited score is above the most frequent class's by two standard errors), `tau_above_chance`
        (tau of these), and `retrained_minus_inherited` (the mean difference of the two scores).
    """
    results = as_study_results(study)
    ranked = results.frame[results.frame["kind"] == "ranking"]
    ranked = ranked.sort_values("variant", key=lambda v: v.map(results.variants.index), kind="stable")

    table = []
    for (variant, task, seed), rows in ranked.groupby(["variant", "task", "seed"], sort=False):
        scores = rows.pivot(index="budget", columns="method", values="value").dropna()
        tau, p = kendall_tau(scores["inherited"].tolist(), scores["retrained"].tolist())
        chance = _chance_score(results.frame, variant, task, seed)
        is_above = scores["inherited"] > _lowest_above(chance, rows["examples"].iloc[0])
        above = scores[is_above]
        tau_above, _ = kendall_tau(above["inherited"].tolist(), above["retrained"].tolist())
        row = {
            "variant": variant,
            "task": task,
            "seed": seed,
            "networks": len(scores),
            "tau": tau,
            "p": p,
            "above_chance": math.nan if math.isnan(chance) else len(above),
            "tau_above_chance": math.nan if math.isnan(chance) else tau_above,
        }
        row["retrained_minus_inherited"] = float((scores["retrained"] - scores["inherited"]).mean())
        table.append(row)

    columns = ["variant", "task", "seed", "networks", "tau", "p", "above_chance", "tau_above_chance"]
    return pd.DataFrame(table, columns=[*columns, "retrained_minus_inherited"])


def _chance_score(frame: pd.DataFrame, variant: Hashable, task: Hashable, seed: Hashable) -> float:
    """Return the score of the most frequent class in a run; NaN if the run did not record it."""
    is_run = (frame["variant"] == variant) & (frame["task"] == task) & (frame["seed"] == seed)
    values = frame[is_run & (frame["kind"] == "agreement") & (frame["metric"] == "chance")]["value"]
    return math.nan if values.empty else float(values.iloc[0])


def _lowest_above(chance: float, examples: float) -> float:
    """Return the score that is two standard errors above chance; NaN without chance."""
    if math.isnan(chance) or math.isnan(examples):
        return chance
    spread = max(0.0, chance * (1 - chance))
    return chance + 2 * math.sqrt(spread / examples)


def search_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return the progress of searches, one row for each variant, task and number of evaluations.

    Args:
        study: A study, or its directory.

    Returns:
        Columns variant, task, evaluations, `best` and `best10`: the best feasible score and the mean of
        the ten best among the first evaluations. Both are means over the seeds that all variants of the
        task have. A seed without a feasible architecture by then is not in the mean.
    """
    results = as_study_results(study)
    frame = results.frame[results.frame["kind"] == "progress"].astype({"evaluations": int})
    # Means are comparable only over seeds that every variant of the task has finished.
    for task, rows in frame.groupby("task"):
        variant_seeds = [set(variant_rows["seed"]) for _, variant_rows in rows.groupby("variant")]
        common_seeds = set.intersection(*variant_seeds)
        is_incomplete = (frame["task"] == task) & ~frame["seed"].isin(common_seeds)
        frame = frame[~is_incomplete]

    table = frame.pivot_table(
        index=["variant", "task", "evaluations"], columns="metric", values="value", sort=False
    )
    table = table.reindex(columns=["best", "best10"]).reset_index()
    table.columns.name = None
    return table.sort_values(["task", "variant", "evaluations"]).reset_index(drop=True)


def cost_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return the mean wall time of each stage of a run.

    Args:
        study: A study, or its directory.

    Returns:
        Columns variant, task, stage, seconds, seeds. A stage that a run reused from another run is not
        counted for it.
    """
    results = as_study_results(study)
    is_stage = (results.frame["kind"] == "cost") & ~results.frame["metric"].isin(METHOD_METRICS)
    frame = results.frame[is_stage]
    grouped = frame.groupby(["variant", "task", "stage"], sort=False)["value"].agg(["mean", "count"])
    return grouped.reset_index().rename(columns={"mean": "seconds", "count": "seeds"})


@dataclass(frozen=True)
class BreakEven:
    """When one super-network for all budgets costs no more than a compression for each budget.

    Attributes:
        task: Name of the task.
        variant: Variant that compresses each budget separately.
        once: Seconds that the first variant needs once.
        each_after: Further seconds that the first variant needs for each budget.
        each_separate: Seconds that the other variant needs for each budget.
        budgets: Smallest number of budgets at which the first variant costs no more; None if it always
            costs more.
    """

    task: str
    variant: str
    once: float
    each_after: float
    each_separate: float
    budgets: int | None


def find_break_evens(study: str | Path | StudyResults) -> list[BreakEven]:
    """Compare the first variant with each variant that compresses its budgets separately.

    The first variant trains one super-network: importance and training are paid once, search and
    deployment for each budget. Another variant is compared if it does one of the following:

    - It fine-tunes each network from the teacher's weights. A budget costs its fine-tuning.
    - It has one budget, and the first variant has several. A budget costs a super-network, its search and
      its deployment.

    The teacher is not counted, because every variant needs it. Variants are left out if the wall time of
    one of their stages is missing.

    Args:
        study: A study, or its directory.
    """
    results = as_study_results(study)
    costs = cost_table(results)
    scores = results.frame[results.frame["method"].isin(["yoco", "finetuned"])]
    reference = results.variants[0]

    break_evens = []
    for task in results.tasks:
        num_budgets = scores[scores["task"] == task].groupby("variant")["budget"].nunique().to_dict()
        seconds = {
            str(variant): dict(zip(rows["stage"], rows["seconds"], strict=True))
            for variant, rows in costs[costs["task"] == task].groupby("variant")
        }
        # The first variant must have measured every stage, or nothing can be compared with it.
        stages = seconds.get(reference, {})
        if not set(SUPERNET_STAGES) <= set(stages) or reference not in num_budgets:
            continue

        once = stages["super-network"] + stages.get("importance", 0.0)
        each_after = (stages["search"] + stages["deploy"]) / num_budgets[reference]
        for variant in results.variants[1:]:
            if variant not in num_budgets:
                continue
            each_separate = _cost_of_separate_budget(
                seconds.get(variant, {}),
                num_budgets[variant],
                variant in results.teacher_started,
                num_budgets[reference] > 1,
            )
            if each_separate is not None:
                budgets = break_even_budgets(once, each_after, each_separate)
                break_evens.append(BreakEven(task, variant, once, each_after, each_separate, budgets))
    return break_evens


def _cost_of_separate_budget(
    stages: dict[str, float], num_budgets: int, starts_from_teacher: bool, reference_has_several: bool
) -> float | None:
    """Return the seconds of one budget; None if the variant does not compress its budgets separately."""
    if "fine-tuning" in stages and starts_from_teacher:
        return stages["fine-tuning"] / num_budgets
    if num_budgets == 1 and reference_has_several and set(SUPERNET_STAGES) <= set(stages):
        return sum(stages.get(stage, 0.0) for stage in ("importance", *SUPERNET_STAGES))
    return None

"""A study in sentences: what it found that is not in its tables, and how to read the tables."""

from __future__ import annotations

import pandas as pd

from raycomp.report.ablation import ablation_table
from raycomp.report.formatting import format_score, format_signed, plural
from raycomp.report.predictions import TEACHER
from raycomp.report.statistics import NO_DIFFERENCE, estimate_correlation
from raycomp.report.study_measures import BreakEven, find_break_evens, rank_table, search_table
from raycomp.report.study_results import StudyResults
from raycomp.report.study_tables import format_interval

# Bootstrap intervals over this many seeds or fewer are known to be too narrow.
FEW_SEEDS = 5

# Means that differ by less are equal: they are sums of the same scores in another order.
TIE = 1e-9


def format_study_heading(study: StudyResults) -> str:
    """Return a study in one line: its name, the paper, the preset and the number of runs."""
    parts = [study.id]
    if study.paper:
        parts.append(f"compared with {study.paper}")
    if study.preset:
        parts.append(f"preset {study.preset}")
    if study.lengths:
        parts.append(study.lengths)
    if study.num_finished < study.num_runs:
        parts.append(f"{study.num_finished} of {study.num_runs} runs")
    else:
        parts.append(f"{study.num_runs} runs")
    return " · ".join(parts)


def build_study_sentences(study: StudyResults) -> list[str]:
    """Return the findings of a study first, and then how to read its tables."""
    table = ablation_table(study)
    sentences = _describe_winners(study, table) + _describe_random_variants(table)
    sentences += _describe_rank_agreement(study)
    sentences += _describe_search_progress(study)
    sentences += [_describe_break_even(result, study.variants[0]) for result in find_break_evens(study)]
    if len(table):
        sentences.append(_explain_statistics(table))
        if table["published"].notna().any():
            sentences.append(
                "Figures in brackets and in the column “paper” are those of "
                f"{study.paper or 'the paper'}. The paper used its own model and data, so the tests do "
                "not include its figures."
            )
    return sentences


def _describe_winners(study: StudyResults, table: pd.DataFrame) -> list[str]:
    """Return for each budget the variant with the highest mean, and the place of the first variant."""
    if not study.compares_methods:
        return []
    reference = study.variants[0]
    sentences = []
    for (task, budget), rows in table[table["variant"] != TEACHER].groupby(
        ["task", "budget"], sort=False
    ):
        own = rows[rows["variant"] == reference]
        # Methods that budgets do not bind have a budget of their own.
        if own.empty or len(rows) < 2:
            continue
        # The first variant comes first among equal means.
        ranked = rows.sort_values("mean", ascending=False, kind="stable")
        best, score = ranked.iloc[0], float(own["mean"].iloc[0])
        place = int((rows["mean"] > score).sum()) + 1
        shown = format_score(best["mean"])
        equal = ranked[ranked["mean"] >= best["mean"] - TIE]["variant"].astype(str).tolist()
        text = f"{task}, {budget}: {best['variant']} has the highest mean ({shown})"
        if len(equal) > 1:
            names = f"{', '.join(equal[:-1])} and {equal[-1]}"
            text = f"{task}, {budget}: {names} share the highest mean ({shown})"
        if reference not in equal:
            text += (
                f"; {reference} is number {place} of {len(rows)} ({format_score(score)}), and the "
                f"test of {best['variant']} against it says: {best['verdict']}"
            )
        sentences.append(f"{text}.")
    return sentences


def _describe_random_variants(table: pd.DataFrame) -> list[str]:
    """Return the mean over the variants random-0, random-1 and so on, as papers report it."""
    is_random = table["variant"].astype(str).str.startswith("random-")
    sentences = []
    for (task, budget), rows in table[is_random].groupby(["task", "budget"], sort=False):
        if len(rows) > 1:
            mean = format_score(rows["mean"].mean())
            spread = format_score(rows["mean"].std())
            sentences.append(
                f"{task}, {budget}: the {len(rows)} random variants score {mean} ± {spread} (mean and "
                "standard deviation over the variants)."
            )
    return sentences


def _describe_rank_agreement(study: StudyResults) -> list[str]:
    """Return Kendall's tau over the seeds with its interval."""
    sentences = []
    for (variant, task), rows in rank_table(study).groupby(["variant", "task"], sort=False):
        tau = estimate_correlation(rows["tau"].tolist())
        if tau.seeds > 1:
            interval = format_interval(tau.low, tau.high, format_signed)
            sentences.append(
                f"{task}, {variant}: Kendall's tau is {format_signed(tau.mean)} ± {format_score(tau.sd)} "
                f"over {tau.seeds} seeds (Student's 95% interval on Fisher's scale: {interval})."
            )
    return sentences


def _describe_search_progress(study: StudyResults) -> list[str]:
    """Return after how many evaluations the first searcher reached the best score of each other one."""
    table = search_table(study)
    if not study.compares_searchers or table["variant"].nunique() < 2:
        return []

    reference = study.variants[0]
    sentences = []
    for task, rows in table.groupby("task", sort=False):
        own = rows[rows["variant"] == reference]
        for variant in study.variants[1:]:
            other = rows[rows["variant"] == variant]
            if own.empty or other.empty:
                continue

            best = float(other["best"].max())
            total = int(other["evaluations"].max())
            reached = own[own["best"] >= best]["evaluations"]
            target = f"the best score that {variant} reached in {total} evaluations ({best:.3f})"
            if reached.empty:
                sentences.append(f"{task}: {reference} did not reach {target}.")
            else:
                sentences.append(
                    f"{task}: {reference} reached {target} after {int(reached.min())} evaluations."
                )
    return sentences


def _describe_break_even(result: BreakEven, reference: str) -> str:
    costs = (
        f"{reference} needs {result.once:.0f} s once and {result.each_after:.1f} s for each budget; "
        f"{result.variant} needs {result.each_separate:.1f} s for each budget"
    )
    if result.budgets is None:
        conclusion = f"{result.variant} is cheaper for any number of budgets"
    else:
        conclusion = f"{reference} costs no more from {plural(result.budgets, 'budget')} on"
    return f"{result.task}: {conclusion} ({costs})."


def _explain_statistics(table: pd.DataFrame) -> str:
    """Return how means, intervals and tests of the table of statistics are computed."""
    bases = [basis for basis in dict.fromkeys(table["basis"]) if basis]
    tests = [test for test in dict.fromkeys(table["test"]) if test not in ("", "none")]
    fewest = int(table["seeds"].min())
    most = int(table["seeds"].max())
    seeds = plural(most, "seed")
    if fewest != most:
        seeds = f"{fewest} to {seeds}"

    text = f"Scores are on the validation split, over {seeds}. The gap is selection minus validation. "
    if bases:
        text += f"Intervals are 95% intervals over {' or '.join(bases)}. "
    else:
        text += "There are too few runs for an interval. "
    if tests:
        text += f"The test is a {' or a '.join(tests)}, not corrected for the number of comparisons. "
        text += f"“{NO_DIFFERENCE}” means that the interval of the difference contains 0. "
    if any("bootstrap" in test for test in tests) and 1 < most <= FEW_SEEDS:
        text += (
            f"With {plural(most, 'seed')}, bootstrapping underestimates seed-to-seed variance; treat an "
            "interval as a lower bound on the uncertainty. "
        )
    return text.rstrip()

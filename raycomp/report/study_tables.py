"""A study as text tables and sentences: the same for a terminal and for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from raycomp.report.formatting import format_count, format_score, format_signed, is_finite_number
from raycomp.report.statistics import NO_DIFFERENCE, estimate_mean
from raycomp.report.study_results import (
    REFERENCE,
    TEACHER,
    StudyResults,
    ablation_table,
    find_break_evens,
    rank_table,
    search_table,
)

FEW = 5  # seeds up to which their bootstrap is known to be too narrow


@dataclass(frozen=True)
class TextTable:
    """A table of short texts.

    Attributes:
        title: what it shows.
        columns: names; the first `named` of them name a row.
        rows: cells as text.
        named: how many columns name a row.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    named: int = 1


def build_study_tables(study: StudyResults) -> list[TextTable]:
    """Return the paper's layout, the statistics, and what else the study measured."""
    table = ablation_table(study)
    found = [_layout(study, table), _statistics(study, table)] if len(table) else []
    return found + _ranks(study) + _searches(study)


def format_study_heading(study: StudyResults) -> str:
    """Return the study in one line."""
    parts = [study.id]
    parts += [f"beside {study.paper}"] if study.paper else []
    parts += [f"preset {study.preset}"] if study.preset else []
    missing = study.num_runs - study.num_finished
    parts += [f"{study.num_finished} of {study.num_runs} runs"] if missing else [f"{study.num_runs} runs"]
    return " · ".join(parts)


def build_study_sentences(study: StudyResults) -> list[str]:
    """Return what the tables need said: how to read them, and findings that are no table."""
    table = ablation_table(study)
    said: list[str] = []
    if len(table):
        said.append(_basis(study, table))
        if table["published"].notna().any():
            said.append(
                f"In brackets and under “paper”: {study.paper or 'the paper'}'s own figure, from its own "
                "model and data; it is no part of the test."
            )
    said += _random(table)
    said += _agreement(study)
    said += _who_is_first(study)
    for one in find_break_evens(study):
        said.append(_break_even(one, study.variants[0]))
    return said


def _random(table: pd.DataFrame) -> list[str]:
    """Say the mean of random-0, random-1 and so on: the paper gives no more of them."""
    mine = table[table["variant"].astype(str).str.startswith("random-")]
    return [
        f"{task} {budget}: {len(rows)} random variants have {format_score(rows['mean'].mean())} ± "
        f"{format_score(rows['mean'].std())}, mean and standard deviation over the variants."
        for (task, budget), rows in mine.groupby(["task", "budget"], sort=False)
        if len(rows) > 1
    ]


def _layout(study: StudyResults, table: pd.DataFrame) -> TextTable:
    """Set mean and deviation as the paper does, its own figure in brackets."""
    table = table.assign(column=[_column(r, study) for r in table.to_dict("records")])
    by = "variant" if study.row_kind == "variant" else "task"
    rows, columns = dict.fromkeys(table[by]), dict.fromkeys(table["column"])
    cells: dict[tuple[str, str], str] = {}
    for row in table.to_dict("records"):
        text = format_score(row["mean"]) + (
            f" ± {format_score(row['sd'])}" if is_finite_number(row["sd"]) else ""
        )
        text += f" ({format_score(row['published'])})" if is_finite_number(row["published"]) else ""
        cells[str(row[by]), str(row["column"])] = text
    metrics = ", ".join(dict.fromkeys(table["metric"]))
    title = f"{study.paper or study.name}: {metrics}, mean ± standard deviation over seeds"
    body = [[str(r), *(cells.get((str(r), str(c)), "") for c in columns)] for r in rows]
    return TextTable(title, [by, *map(str, columns)], body)


def _column(row: dict[Any, Any], study: StudyResults) -> str:
    """Name the column of a figure: what of task, variant and budget the rows do not say."""
    if study.row_kind == "task":
        return TEACHER if row["variant"] == TEACHER else f"{row['variant']} {row['budget']}"
    return f"{row['task']} {row['budget']}" if row["variant"] != TEACHER else f"{row['task']}"


def _statistics(study: StudyResults, table: pd.DataFrame) -> TextTable:
    columns = [
        "task", "budget", "variant", "seeds", "mean ± sd", "95% interval", "paper", "gap", "params",
        f"against {study.variants[0]}", "95% interval of that", "p", "shown",
    ]  # fmt: skip
    body = []
    for row in table.to_dict("records"):
        tested = row["verdict"] != REFERENCE
        body.append(
            [
                str(row["task"]),
                "" if row["variant"] == TEACHER else str(row["budget"]),
                str(row["variant"]),
                str(row["seeds"]),
                format_score(row["mean"])
                + (f" ± {format_score(row['sd'])}" if is_finite_number(row["sd"]) else ""),
                _interval(row["low"], row["high"], format_score),
                format_score(row["published"]),
                format_signed(row["gap"]),
                format_count(row["params"]),
                format_signed(row["difference"]) if tested else "",
                _interval(row["difference_low"], row["difference_high"], format_signed) if tested else "",
                _p(row["p"]) if tested else "",
                row["verdict"] if tested else "",
            ]
        )
    return TextTable("Statistics", columns, body, named=3)


def _interval(low: Any, high: Any, write: Any) -> str:
    return f"{write(low)} to {write(high)}" if is_finite_number(low) and is_finite_number(high) else ""


def _p(value: Any) -> str:
    if not is_finite_number(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _basis(study: StudyResults, table: pd.DataFrame) -> str:
    bases = [b for b in dict.fromkeys(table["basis"]) if b]
    tests = [t for t in dict.fromkeys(table["test"]) if t not in ("", "none")]
    seeds = f"{int(table['seeds'].min())}"
    if table["seeds"].min() != table["seeds"].max():
        seeds += f" to {int(table['seeds'].max())}"
    said = f"Validation scores over {seeds} seed{'' if seeds == '1' else 's'}; gap: selection minus "
    said += "validation. "
    said += (
        f"Intervals are of 95%, over {' or '.join(bases)}. " if bases else "No interval can be given. "
    )
    if tests:
        said += f"Test: {' or '.join(tests)}, not corrected for the number of comparisons. "
    if any("bootstrap" in t for t in tests) and 1 < table["seeds"].max() <= FEW:
        said += (
            "Seeds that are drawn again from so few of them spread less than seeds do: read an interval, "
            "and a difference outside of one, as the least that can be said against chance. "
        )
    return said + f"“{NO_DIFFERENCE}”: the interval of the difference holds 0."


def _ranks(study: StudyResults) -> list[TextTable]:
    table = rank_table(study)
    if table.empty:
        return []
    body = [
        [str(r["variant"]), str(r["task"]), str(r["seed"]), str(r["networks"]), format_signed(r["tau"]),
         _p(r["p"]), format_signed(r["alone_minus_inherited"])]
        for r in table.to_dict("records")
    ]  # fmt: skip
    columns = ["variant", "task", "seed", "networks", "Kendall's tau", "p", "alone minus inherited"]
    return [TextTable("Inherited against stand-alone fine-tuned scores (selection)", columns, body, 3)]


def _agreement(study: StudyResults) -> list[str]:
    """Say tau over the seeds, with its interval."""
    said = []
    for (variant, task), rows in rank_table(study).groupby(["variant", "task"], sort=False):
        about = estimate_mean(rows["tau"].tolist())
        if about.seeds > 1:
            said.append(
                f"{task}, {variant}: Kendall's tau {format_signed(about.mean)} ± "
                f"{format_score(about.sd)} over {about.seeds} seeds; 95% interval over them, Student's: "
                f"{_interval(about.low, about.high, format_signed)}."
            )
    return said


def _searches(study: StudyResults) -> list[TextTable]:
    table = search_table(study)
    if not study.compares_searchers or table["variant"].nunique() < 2:
        return []
    found = []
    for what, title in (("best10", "Mean of the ten best"), ("best", "Best")):
        wide = table.pivot_table(
            index=["task", "variant"], columns="evaluations", values=what, sort=False
        )
        order = {v: i for i, v in enumerate(study.variants)}
        ranked = sorted(wide.index, key=lambda key: (key[0], order.get(key[1], 0)))
        body = [[*map(str, key), *(format_score(v) for v in wide.loc[key])] for key in ranked]
        columns = ["task", "variant", *(str(c) for c in wide.columns)]
        found.append(
            TextTable(f"{title} after so many evaluations (selection, mean over seeds)", columns, body, 2)
        )
    return found


def _who_is_first(study: StudyResults) -> list[str]:
    """Say after how many evaluations each searcher reached the best of each other."""
    table = search_table(study)
    if not study.compares_searchers or table["variant"].nunique() < 2:
        return []
    said = []
    for task, rows in table.groupby("task", sort=False):
        first = rows[rows["variant"] == study.variants[0]]
        for variant in study.variants[1:]:
            other = rows[rows["variant"] == variant]
            if first.empty or other.empty:
                continue
            best, total = float(other["best"].max()), int(other["evaluations"].max())
            reached = first[first["best"] >= best]["evaluations"]
            name = f"{task}: {study.variants[0]}"
            if reached.empty:
                said.append(f"{name} did not reach {variant}'s best ({best:.3f}) in {total} evaluations.")
            else:
                said.append(
                    f"{name} reached {variant}'s best of {total} evaluations ({best:.3f}) after "
                    f"{int(reached.min())}."
                )
    return said


def _break_even(one: dict[str, Any], first: str) -> str:
    said = (
        f"{one['task']}: {first} pays {one['once']:.0f} s once and {one['each_after']:.1f} s a budget, "
        f"{one['variant']} {one['each_apart']:.1f} s a budget: "
    )
    if one["budgets"] is None:
        return f"{said}{one['variant']} is the cheaper way for any number of budgets."
    return f"{said}{first} costs no more from {one['budgets']} budgets on."

"""The tables of a study as text; the terminal, the page and docs/results show the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from raycomp.report.ablation import REFERENCE, ablation_table
from raycomp.report.formatting import (
    format_count,
    format_number,
    format_score,
    format_signed,
    format_text,
    is_finite_number,
)
from raycomp.report.predictions import TEACHER
from raycomp.report.study_costs import build_cost_tables
from raycomp.report.study_healing import build_healing_tables
from raycomp.report.study_measures import rank_table, search_table
from raycomp.report.study_results import StudyResults
from raycomp.report.text_table import TextTable

SEARCH_SCORES = {"best10": "Mean of the ten best scores", "best": "Best score"}
SMALLEST_P = 0.001


def build_study_tables(study: StudyResults) -> list[TextTable]:
    """Build the tables of a study: means in the paper's layout, statistics, and further measures."""
    table = ablation_table(study)
    tables = []
    if len(table):
        tables += [_build_layout(study, table), _build_statistics(study, table)]
    tables += build_healing_tables(study) + build_cost_tables(study)
    return tables + _build_rank_tables(study) + _build_search_tables(study)


def format_interval(low: Any, high: Any, write: Callable[[Any], str]) -> str:
    """Return "LOW to HIGH", or an empty text if one bound is missing."""
    if not is_finite_number(low) or not is_finite_number(high):
        return ""
    return f"{write(low)} to {write(high)}"


def format_p(value: Any) -> str:
    """Return a p-value with three decimals."""
    if is_finite_number(value) and value < SMALLEST_P:
        return f"< {SMALLEST_P}"
    return format_number(value, 3)


def _format_mean(row: dict[Any, Any]) -> str:
    if not is_finite_number(row["sd"]):
        return format_score(row["mean"])
    return f"{format_score(row['mean'])} ± {format_score(row['sd'])}"


def _build_layout(study: StudyResults, table: pd.DataFrame) -> TextTable:
    """Set mean and standard deviation as the paper does, with the paper's figure in brackets."""
    # Dictionaries keep the order in which rows and columns first occur.
    row_names: dict[str, None] = {}
    columns: dict[str, None] = {}
    cells: dict[tuple[str, str], str] = {}
    for row in table.to_dict("records"):
        text = _format_mean(row)
        if is_finite_number(row["published"]):
            text += f" ({format_score(row['published'])})"
        row_name = str(row[study.row_kind])
        column = _name_column(row, study)
        row_names[row_name] = None
        columns[column] = None
        cells[row_name, column] = text

    metrics = ", ".join(dict.fromkeys(table["metric"]))
    title = f"{study.paper or study.name}: {metrics}, mean ± standard deviation over seeds"
    body = [
        [row_name, *(cells.get((row_name, column), "") for column in columns)] for row_name in row_names
    ]
    return TextTable(title, [study.row_kind, *columns], body)


def _name_column(row: dict[Any, Any], study: StudyResults) -> str:
    """Return the column of a figure: those of task, variant and budget that its row does not name."""
    if row["variant"] == TEACHER:
        return TEACHER if study.row_kind == "task" else str(row["task"])
    column = "variant" if study.row_kind == "task" else "task"
    return f"{row[column]} {row['budget']}"


def _build_statistics(study: StudyResults, table: pd.DataFrame) -> TextTable:
    columns = [
        "task",
        "budget",
        "variant",
        "seeds",
        "mean ± sd",
        "95% interval",
        "paper",
        "gap",
        "params",
        f"difference from {study.variants[0]}",
        "95% interval of the difference",
        "p",
        "verdict",
    ]
    return TextTable(
        "Statistics", columns, [_statistics_row(r) for r in table.to_dict("records")], named=3
    )


def _statistics_row(row: dict[Any, Any]) -> list[str]:
    test = [""] * 4
    if row["verdict"] != REFERENCE:
        test = [
            format_signed(row["difference"]),
            format_interval(row["difference_low"], row["difference_high"], format_signed),
            format_p(row["p"]),
            format_text(row["verdict"]),
        ]
    return [
        str(row["task"]),
        "" if row["variant"] == TEACHER else str(row["budget"]),
        str(row["variant"]),
        str(row["seeds"]),
        _format_mean(row),
        format_interval(row["low"], row["high"], format_score),
        format_score(row["published"]),
        format_signed(row["gap"]),
        format_count(row["params"]),
        *test,
    ]


def _build_rank_tables(study: StudyResults) -> list[TextTable]:
    table = rank_table(study)
    if table.empty:
        return []
    body = [
        [
            str(row["variant"]),
            str(row["task"]),
            str(row["seed"]),
            str(row["networks"]),
            format_signed(row["tau"]),
            format_p(row["p"]),
            format_count(row["above_chance"]),
            format_signed(row["tau_above_chance"]),
            format_signed(row["retrained_minus_inherited"]),
        ]
        for row in table.to_dict("records")
    ]
    columns = [
        "variant",
        "task",
        "seed",
        "networks",
        "Kendall's tau",
        "p",
        "above chance",
        "tau of these",
        "fine-tuned minus inherited",
    ]
    title = "Inherited scores compared with scores after separate fine-tuning (selection split)"
    return [TextTable(title, columns, body, named=3)]


def _build_search_tables(study: StudyResults) -> list[TextTable]:
    table = search_table(study)
    if not study.compares_searchers or table["variant"].nunique() < 2:
        return []

    position = {variant: index for index, variant in enumerate(study.variants)}
    tables = []
    for score, title in SEARCH_SCORES.items():
        wide = table.pivot_table(
            index=["task", "variant"], columns="evaluations", values=score, sort=False
        )
        order = sorted(wide.index, key=lambda key: (key[0], position.get(key[1], 0)))
        body = [[*map(str, key), *(format_score(value) for value in wide.loc[key])] for key in order]
        columns = ["task", "variant", *(str(count) for count in wide.columns)]
        full_title = f"{title} by number of evaluations (selection split, mean over seeds)"
        tables.append(TextTable(full_title, columns, body, named=2))
    return tables

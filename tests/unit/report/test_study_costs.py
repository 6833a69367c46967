"""Costs and winners of a study that compares methods."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from raycomp.report.cost_table import MethodCost
from raycomp.report.study_costs import build_cost_tables, list_cost_rows, method_cost_table
from raycomp.report.study_measures import cost_table
from raycomp.report.study_results import load_study_results
from raycomp.report.study_sentences import build_study_sentences, format_study_heading
from raycomp.storage.files import write_json
from raycomp.storage.tables import write_rows
from tools.study_figure import draw_study
from tools.study_page import collect_rows, format_study

TASK = "demo/polarity"
METHODS = {"yoco": 0.80, "pkd": 0.82, "hat": 0.70}


def cost(method: str, marginal: float = 0.5) -> MethodCost:
    return MethodCost("run", method, 2.0, 3 * marginal, 0.25, marginal, 1e6, 30.0)


def write_methods_study(storage: Path, *, counts_costs: bool = True) -> Path:
    """Write a study of three methods, one budget and two seeds."""
    folder = storage / "methods-1a2b3c4d"
    cells = []
    for variant, score in METHODS.items():
        for seed in range(2):
            common = {"run": f"{variant}-{seed}", "study": "methods", "variant": variant, "task": TASK,
                      "seed": seed}  # fmt: skip
            row: dict[str, Any] = {"kind": "score", "budget": "half", "method": variant,
                                   "metric": "accuracy", "value": score + 0.01 * seed, "selection": 0.9,
                                   "gap": 0.1, "examples": 300, "params": 10**7, "flops": 1e9,
                                   "latency_ms": 5.0}  # fmt: skip
            rows: list[dict[str, Any]] = [{**common, **row}]
            rows.append({**common, "kind": "cost", "stage": "deploy", "metric": "seconds", "value": 9.0})
            if counts_costs:
                costs = [cost("teacher"), cost(variant, 0.0 if variant == "yoco" else 0.5 + seed)]
                rows += [{**common, **line} for c in costs for line in list_cost_rows(c)]
            write_rows(folder, "ablations", rows, f"{variant}-s{seed}")
            job = {"run": {"equal_compute": 6.0}, "search": {}, "budget": [], "finetune": {"start": "x"}}
            cells.append({"variant": variant, "task": TASK, "seed": seed, "job": job})
    settings = {"name": "methods", "paper": "", "rows": "variant", "seeds": [0, 1],
                "variant": [{"name": name} for name in METHODS]}  # fmt: skip
    write_json(folder / "study.json", {"preset": "small", "study": settings, "runs": cells})
    return folder


def test_the_cost_of_a_method_is_the_mean_over_seeds_without_the_teacher(tmp_path: Path) -> None:
    study = load_study_results(write_methods_study(tmp_path))
    table = method_cost_table(study).set_index("variant")
    assert table.loc["pkd", "marginal"] == pytest.approx(1.0)
    # A super-network without healing needs no training for one more budget.
    assert table.loc["yoco", "marginal"] == 0.0
    assert table.loc["pkd", "total"] == pytest.approx(2.0 + 3.0 + 0.25)
    assert table["seeds"].tolist() == [2, 2, 2]
    (text,) = build_cost_tables(study)
    assert text.rows[0][:2] == ["yoco", TASK]
    # Wall seconds of stages are another table, which the new rows leave as it was.
    assert cost_table(study)["stage"].unique().tolist() == ["deploy"]


def test_studies_of_earlier_versions_have_no_cost_table(tmp_path: Path) -> None:
    study = load_study_results(write_methods_study(tmp_path, counts_costs=False))
    assert build_cost_tables(study) == []


def test_the_first_sentence_says_who_wins_and_where_the_reference_stands(tmp_path: Path) -> None:
    study = load_study_results(write_methods_study(tmp_path))
    first = build_study_sentences(study)[0]
    assert first.startswith(f"{TASK}, half: pkd has the highest mean (0.825); yoco is number 2 of 3")
    assert "run.equal_compute=6" in format_study_heading(study)


def test_equal_means_share_the_first_place(tmp_path: Path) -> None:
    study = load_study_results(write_methods_study(tmp_path))
    frame = study.frame
    scores = frame[(frame["kind"] == "score") & (frame["budget"] == "half")]
    best = scores[scores["variant"] == "pkd"].set_index("seed")["value"]
    own = scores["variant"] == "yoco"
    frame.loc[scores[own].index, "value"] = scores[own]["seed"].map(best)
    first = build_study_sentences(study)[0]
    assert first == f"{TASK}, half: yoco and pkd share the highest mean (0.825)."


def test_the_page_names_the_tasks_and_the_length_of_its_command(tmp_path: Path) -> None:
    study = load_study_results(write_methods_study(tmp_path))
    text = format_study(study, collect_rows(study, tmp_path / "none.md"))
    assert "--set run.equal_compute=6" in text
    assert """--set 'study.tasks=["demo/polarity"]' --set 'study.seeds=[0, 1]'`""" in text
    assert "| yoco | demo/polarity | 2.00 |" in text


def test_the_figure_has_a_front_over_each_cost(tmp_path: Path) -> None:
    figure = draw_study(load_study_results(write_methods_study(tmp_path)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{TASK}, half", *(f"{TASK}, over {c}" for c in ("params", "flops", "latency_ms"))]


def test_the_figure_survives_a_method_whose_costs_are_unknown(tmp_path: Path) -> None:
    study = load_study_results(write_methods_study(tmp_path))
    study.frame.loc[study.frame["method"] == "hat", "flops"] = math.nan
    assert len(draw_study(study).axes) == 4

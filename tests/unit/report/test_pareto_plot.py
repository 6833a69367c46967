"""The Pareto plot: traces, costs of the teacher, budgets, and many evaluations."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from raycomp.report import load_tables, page, write_report
from raycomp.report.axes import find_budget_lines
from raycomp.report.pareto_plot import draw_pareto_plot
from raycomp.report.teacher_scores import derive_teacher_costs
from tests.unit.report.page_reader import read_page
from tests.unit.report.run_factory import BESIDE, FULL, encoder_params, write_run


def test_seeds_of_a_variant_have_one_colour(tmp_path: Path) -> None:
    names = ("a-11111111", "b-22222222", "c-33333333")
    for name in names:
        write_run(tmp_path, name)
    variants = ("eesng", "eesng", "explore")
    rows = [
        {"run": r, "study": "s", "variant": v, "seed": i}
        for i, (r, v) in enumerate(zip(names, variants, strict=True))
    ]
    tables = replace(load_tables(tmp_path), ablations=pd.DataFrame(rows))
    plot = draw_pareto_plot(tables, "accuracy", 100)
    assert plot is not None
    drawn_traces = [t for t in plot.figure.to_plotly_json()["data"] if "yoco, deployed" in t["name"]]
    assert [t["name"].split(":")[0] for t in drawn_traces] == ["s eesng", "s explore"]
    assert [len(t["text"]) for t in drawn_traces] == [4, 2]
    assert [len(t["error_y"]["array"]) for t in drawn_traces] == [4, 2]
    assert drawn_traces[0]["marker"]["color"] != drawn_traces[1]["marker"]["color"]
    assert all(name in "".join(drawn_traces[0]["text"] + drawn_traces[1]["text"]) for name in names)


def test_costs_of_the_teacher_and_positions_of_budgets(tmp_path: Path) -> None:
    tables = load_tables(write_run(tmp_path))
    full = encoder_params(FULL)
    costs = derive_teacher_costs(tables, tables.runs[0])
    assert costs == {"params": full + BESIDE, "flops": pytest.approx(100 * full), "latency_ms": 10.0}
    assert find_budget_lines(tables.deployments, "params") == [(full * 0.5 + BESIDE, "half")]
    assert find_budget_lines(tables.deployments, "flops") == [(full * 50.0, "flops")]


@pytest.mark.usefixtures("whole_page")
def test_a_hundred_thousand_evaluations(tmp_path: Path) -> None:
    run = write_run(tmp_path, evaluations=2500)
    first = run / "tables" / "evaluations" / "ledger-1.parquet"
    for i in range(2, 41):
        shutil.copy(first, first.with_name(f"ledger-{i}.parquet"))
    began = time.process_time()  # not the time of other programs
    out = write_report(run, tmp_path / "r.html")
    assert time.process_time() - began < 10
    assert out.stat().st_size < page.LIMIT == 6_000_000
    html_page = read_page(out)
    assert len(html_page.plots()[0]["data"][0]["text"]) <= page.POINTS
    assert any("shows 2,000 of 100,000 evaluated architectures" in t for t in html_page.text)


def test_a_run_whose_search_has_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for name in ("yoco", "adabert"):
        (run / "tables" / "deployments" / f"{name}.parquet").unlink()
    front = read_page(write_report(run, tmp_path / "r.html")).plots()[0]
    assert [t["name"] for t in front["data"]] == [
        "yoco, evaluated (selection)", "teacher (validation)", "front of validation",
    ]  # fmt: skip

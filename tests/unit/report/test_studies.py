"""Studies: ablation table, sentences, page and terminal, from a study directory of the test's own."""

from __future__ import annotations

import copy
import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raycomp.cli import output as printing
from raycomp.data.overview import Overview
from raycomp.errors import UserError
from raycomp.report import ablation_table, load_study_results, load_tables, write_report
from raycomp.report.ablation import COLUMNS
from raycomp.report.predictions import Predictions
from raycomp.report.statistics import NO_DIFFERENCE
from raycomp.report.study_healing import build_healing_tables, list_healing_rows
from raycomp.report.study_measures import cost_table, find_break_evens, rank_table, search_table
from raycomp.report.study_results import StudyResults
from raycomp.report.study_sentences import build_study_sentences, format_study_heading
from raycomp.report.study_tables import build_study_tables
from raycomp.report.study_warnings import list_study_warnings
from raycomp.report.uncertainty_section import build_uncertainty_section
from raycomp.storage.files import write_array, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.study_layout import StudyLayout, find_runs
from raycomp.storage.tables import part_files, read_table, write_rows
from tests.unit.report.page_reader import read_page
from tests.unit.report.run_factory import write_run
from tests.unit.report.study_factory import TASK, write_study

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(folder: Path) -> StudyResults:
    """The study with its table, whose bootstrap takes most of the time of these tests."""
    return load_study_results(folder)


def test_a_row_per_task_budget_and_variant(folder: Path, study: StudyResults) -> None:
    table = ablation_table(study)
    assert tuple(table.columns) == COLUMNS
    assert list(zip(table["budget"], table["variant"], strict=True)) == [
        ("teacher", "teacher"), ("half", "plain"), ("half", "good"), ("half", "same"),
        ("third", "plain"), ("third", "good"), ("third", "same"),
    ]  # fmt: skip
    frame = study.frame
    for row in table.to_dict("records"):
        if row["variant"] == "teacher":
            continue
        variant_rows = frame[(frame["variant"] == row["variant"]) & (frame["budget"] == row["budget"])]
        values = variant_rows[variant_rows["method"] == "yoco"]["value"]
        assert row["mean"] == pytest.approx(values.mean())
        assert row["sd"] == pytest.approx(values.std())  # pandas divides by n - 1
        assert row["low"] < row["mean"] < row["high"]
        assert row["basis"] == "examples and seeds"
        assert row["gap"] == pytest.approx(0.9 - row["mean"])
    assert ablation_table(folder).equals(table)  # the draws are seeded


def test_variants_are_tested_against_the_first(study: StudyResults) -> None:
    half = ablation_table(study).query("budget == 'half'").set_index("variant")
    assert half.loc["plain", "verdict"] == "reference"
    assert half.loc["good", "verdict"] == "higher"
    assert half.loc["good", "test"] == "paired bootstrap"
    assert half.loc["good", "p"] < 0.01
    assert half.loc["good", "difference"] == pytest.approx(
        half.loc["good", "mean"] - half.loc["plain", "mean"]
    )
    assert half.loc["same", "verdict"] == NO_DIFFERENCE
    assert half.loc["same", "difference_low"] <= 0 <= half.loc["same", "difference_high"]
    assert half["published"].tolist()[:2] == [0.841, 0.876]


def test_without_saved_outputs_the_test_is_over_seeds(tmp_path: Path) -> None:
    table = ablation_table(write_study(tmp_path, predictions=False))
    assert set(table["basis"]) == {"seeds"}
    assert set(table["test"]) == {"", "paired t-test"}


def test_saved_outputs_that_give_another_score_are_ignored(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    run = load_study_results(folder).frame.query("variant == 'good' and budget == 'half'")["run"].iloc[0]
    path = RunLayout(folder / "runs" / run).predictions("yoco-half", "validation")
    write_array(path, np.zeros((300, 2), np.float32))
    half = ablation_table(folder).query("budget == 'half'").set_index("variant")
    assert half.loc["good", "basis"] == "seeds"
    assert half.loc["good", "test"] == "paired t-test"
    assert half.loc["same", "test"] == "paired bootstrap"


def test_a_run_that_has_not_finished_has_no_row(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    for path in part_files(folder, "ablations"):
        if path.stem != "plain-demo-polarity-s0":
            path.unlink()
    study = load_study_results(folder)
    assert (study.num_finished, study.num_runs) == (1, 9)
    assert "1 of 9 runs" in format_study_heading(study)
    table = ablation_table(study)
    assert set(table["variant"]) == {"teacher", "plain"}
    assert table["sd"].isna().all()
    for path in part_files(folder, "ablations"):
        path.unlink()
    assert ablation_table(folder).empty
    assert build_study_tables(load_study_results(folder)) == []
    assert (
        "No run of this study has finished yet."
        in read_page(write_report(folder, tmp_path / "x.html")).text
    )


def test_tau_is_also_of_the_networks_above_chance(tmp_path: Path) -> None:
    """Without the network at chance, whose two scores disagree, the rankings are equal."""
    folder = write_study(tmp_path)
    ranks = rank_table(folder)
    assert ranks["tau_above_chance"].isna().all()
    run = ranks.iloc[0]
    row = {"run": "r", "study": "s", "variant": run["variant"], "task": run["task"], "seed": run["seed"]}
    agreement = {"kind": "agreement", "metric": "chance", "value": 0.05}
    write_rows(folder, "ablations", [row | agreement], "chance")
    ranks = rank_table(folder)
    assert (ranks["above_chance"][0], ranks["tau_above_chance"][0]) == (3, 1)
    assert ranks["tau"][0] < 0.6
    assert ranks["tau_above_chance"][1:].isna().all()


def test_ranks_searches_and_costs(folder: Path) -> None:
    ranks = rank_table(folder)
    # 0 1 2 3 against 2 1 2 3 (tenths): of 6 pairs 4 agree, 1 does not, 1 is tied: 3 / sqrt(6 * 5).
    assert ranks["tau"].tolist() == pytest.approx([3 / 30**0.5] * 9)
    assert set(ranks["networks"]) == {4}
    result = search_table(folder).query("variant == 'plain'")
    assert result["evaluations"].tolist() == [8, 16, 24]
    assert result["best10"].tolist() == pytest.approx([0.78, 0.81, 0.81])
    costs = cost_table(folder).set_index(["variant", "stage"])["seconds"]
    assert costs["plain", "super-network"] == 98
    first = find_break_evens(folder)[0]
    assert (first.once, first.each_after, first.each_separate) == (100, 5, 30)
    assert first.budgets == 4  # 100 + 4 * 5 = 4 * 30
    # Fine-tuned as they were deployed: the super-network is paid for as well.
    assert find_break_evens(replace(load_study_results(folder), teacher_started=frozenset())) == []


def test_only_searches_for_the_same_budgets_are_compared_by_progress(tmp_path: Path) -> None:
    # Without saved outputs there is no bootstrap, which takes most of the time.
    folder = write_study(tmp_path / "study", predictions=False)

    def shows_progress(study: StudyResults) -> bool:
        shown = any("by number of evaluations" in t.title for t in build_study_tables(study))
        assert any("evaluations" in s for s in build_study_sentences(study)) == shown
        return shown

    assert shows_progress(load_study_results(folder))
    data = json.loads((folder / "study.json").read_text())
    for part, differ in (("search", False), ("budget", True)):
        other = copy.deepcopy(data)
        for cell in other["runs"]:
            cell["job"][part] = [cell["variant"]] if differ else data["runs"][0]["job"][part]
        shutil.copytree(folder, tmp_path / part)
        (tmp_path / part / "study.json").write_text(json.dumps(other))
        assert not shows_progress(load_study_results(tmp_path / part))


def test_break_even_is_only_for_variants_that_compress_budgets_separately(folder: Path) -> None:
    study = load_study_results(folder)
    frame = study.frame[study.frame["kind"] != "cost"]
    stages = {"super-network": 50.0, "search": 8.0, "deploy": 2.0}
    seconds = [
        {"variant": v, "task": TASK, "seed": 0, "kind": "cost", "stage": s, "value": x}
        for v in study.variants
        for s, x in stages.items()
    ]
    # "good" has one budget and a super-network for it; "same" has both budgets, as the first one has.
    frame = frame[~((frame["variant"] == "good") & (frame["budget"] == "third"))]
    break_evens = find_break_evens(replace(study, frame=pd.concat([frame, pd.DataFrame(seconds)])))
    assert [(result.variant, result.each_separate) for result in break_evens] == [("good", 60.0)]


def test_tables_have_the_layout_of_the_paper(study: StudyResults) -> None:
    layout, statistics, *_ = build_study_tables(study)
    assert layout.columns == ["variant", TASK, f"{TASK} half", f"{TASK} third"]
    assert [r[0] for r in layout.rows] == ["teacher", "plain", "good", "same"]
    assert layout.rows[1][2].endswith("(0.841)")
    assert layout.rows[0][1].endswith("(0.895)")
    shown = {tuple(r[1:3]): r[-1] for r in statistics.rows}
    assert shown["half", "same"] == NO_DIFFERENCE
    assert shown["half", "plain"] == ""
    sentences = " ".join(build_study_sentences(study))
    assert (
        "plain reached the best score that good reached in 24 evaluations (0.830) after 16 evaluations."
        in sentences
    )
    assert "plain costs no more from 4 budgets on" in sentences
    assert "over 3 seeds" in sentences


def test_the_page_shows_studies(folder: Path) -> None:
    page = read_page(write_report(folder, folder.parent / "report.html"))
    ids = [str(a.get("id")) for t, a in page.elements if t == "h2"]
    assert ids[:2] == ["studies", "deployments"]
    for cell in (
        NO_DIFFERENCE,
        "0.841",
        "YOCO-BERT, Table 4: accuracy, mean ± standard deviation over seeds",
    ):
        assert cell in page.text, cell
    assert len(page.all("table")) == len(page.all("caption"))


def test_a_metric_that_is_not_a_share_gets_a_bootstrap_interval(tmp_path: Path) -> None:
    run = write_run(tmp_path, metric="matthews")
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    predicted = np.where(rng.random(400) < 0.9, truth, 1 - truth)
    predictions = Predictions((truth,), (np.eye(2, dtype=np.float32)[predicted],))
    frame = read_table(run, "deployments")
    rows = frame[frame["method"] == "yoco"].dropna(axis=1, how="all").to_dict("records")
    for row in rows:
        row["validation"] = predictions.value("matthews")
    write_rows(run, "deployments", rows, "yoco")
    write_array(RunLayout(run).predictions("labels", "validation"), truth)
    write_array(RunLayout(run).predictions("yoco-half", "validation"), predictions.logits[0])
    result = {r["name"]: r for r in build_uncertainty_section(load_tables(run), "matthews").rows}
    low, high = map(float, result["yoco half"]["interval"].split(" to "))
    assert low < predictions.value("matthews") < high
    assert result["yoco flops"]["interval"] == ""  # the run did not save its outputs


def test_load_takes_studies_and_storages(folder: Path) -> None:
    result = load_tables(folder)
    assert len(result.runs) == 9
    assert len(result.ablations) == len(load_study_results(folder).frame)
    storage = load_tables(folder.parent)  # of a study below a storage, the table alone
    assert storage.runs == ()
    assert len(storage.ablations) == len(result.ablations)
    assert [s.id for s in storage.studies] == [folder.name]
    with pytest.raises(UserError, match="does not contain a study"):
        ablation_table(folder / "runs")


def test_the_command_line_prints_it_for_people_and_for_scripts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printing.print_study(folder, True)
    result = json.loads(capsys.readouterr().out)
    assert [row["variant"] for row in result["table"]][:2] == ["teacher", "plain"]
    assert result["table"][1]["p"] is None
    printing.print_study(folder, False)
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{folder.name} · compared with YOCO-BERT, Table 4 · preset small · 9 runs\n"
    )
    assert "(0.841)" in printed
    assert NO_DIFFERENCE in printed


def test_warnings_of_runs_are_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as a warning about the data that scrolled away hours ago."""
    folder = write_study(tmp_path, predictions=False)
    runs = find_runs(StudyLayout(folder).runs)
    for number, run in enumerate(runs):
        texts = ["5% of the texts are cut."] + ["A class has one row."] * (number == 1)
        write_json(RunLayout(run).overview, Overview(warnings=tuple(texts)).to_json())

    expected = [
        f"{runs[0].name} and {len(runs) - 1} other runs: 5% of the texts are cut.",
        f"{runs[1].name}: A class has one row.",
    ]
    assert [text for text in list_study_warnings(folder) if "teacher" not in text] == expected
    printing.print_study(folder, False)
    printed = capsys.readouterr().out
    assert all(text in printed for text in expected)
    printing.print_study(folder, True)
    assert set(expected) <= set(json.loads(capsys.readouterr().out)["warnings"])


def test_the_example_script(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablations.py", str(folder)])
    runpy.run_path(str(ROOT / "examples" / "ablations.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert NO_DIFFERENCE in printed
    assert "good" in printed


def test_the_scores_before_and_after_healing_are_a_table(study: StudyResults) -> None:
    deployed = {"budget": "half", "metric": "accuracy", "selection": 0.9}
    healed = list_healing_rows({**deployed, "method": "hat", "inherited": 0.7, "healed": 0.9})
    assert [(row["stage"], row["value"]) for row in healed] == [("inherited", 0.7), ("healed", 0.9)]
    # DynaBERT is not healed by default, and students inherit nothing.
    kept = list_healing_rows({**deployed, "method": "dynabert", "inherited": None, "healed": None})
    assert [(row["stage"], row["value"]) for row in kept] == [("inherited", 0.9)]
    assert list_healing_rows({**deployed, "method": "pkd"}) == []

    rows = [
        {"task": TASK, "variant": variant, "seed": seed, **row, "value": row["value"] + shift}
        for variant, own in (("plain", healed), ("good", kept))
        for seed, shift in ((0, 0.0), (1, 0.02))
        for row in own
    ]
    frame = pd.concat([study.frame, pd.DataFrame(rows)])
    (table,) = build_healing_tables(replace(study, frame=frame))
    assert table.rows == [
        ["plain", TASK, "half", "0.710", "0.910", "2"],
        ["good", TASK, "half", "0.910", "", "2"],
    ]
    assert build_healing_tables(study) == []
    assert table.title in [other.title for other in build_study_tables(replace(study, frame=frame))]

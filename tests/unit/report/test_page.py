"""The HTML page: sections, plots, escaping, size, and runs that are not complete."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from raycomp.api.tables import read_rows
from raycomp.errors import UserError
from raycomp.report import load_tables, page, write_report
from raycomp.report.page import group_comparable_runs
from raycomp.report.summary_table import COLUMNS
from raycomp.storage.files import write_array, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from tests.unit.report.page_reader import ATTACK, Page, read_page
from tests.unit.report.run_factory import begin_run, finish_run, write_run


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    return read_page(write_report(write_run(folder), folder / "report.html"))


def test_sections_in_order_and_the_summary_table(both: Page) -> None:
    ids = [str(a.get("id")) for t, a in both.elements if t == "h2"]
    assert ids == ["deployments", "front", "training", "distribution", "architectures",
                   "uncertainty", "settings"]  # fmt: skip
    for column in COLUMNS:
        assert column in both.text
    for cell in (
        "teacher",
        "encoder_params",
        "3.66M",
        "366M",
        "13.6M",
        "0.830",
        "+0.020",
        "98.8%",
        "10.0",
    ):
        assert cell in both.text, cell
    assert "beta4-gamma0_8-k3" in both.text
    likeliest = both.text.index("Theta: super-network, at the last recorded step")
    assert both.text[likeliest + 4 : likeliest + 7] == ["depth", "2", "0.500"]
    for cell in (
        "python",
        "torch",
        "ray",
        "transformers",
        "CPUs",
        "search.evaluations",
        "budget.half.name",
    ):
        assert cell in both.text, cell


def test_plots_hold_both_methods_budgets_and_the_teacher(both: Page) -> None:
    front = both.plots()[0]
    names = [t["name"] for t in front["data"]]
    assert names == [
        "yoco, evaluated (selection)", "yoco, deployed (validation)",
        "adabert, deployed (validation)", "teacher (validation)", "front of validation",
    ]  # fmt: skip
    assert list(front["variants"]) == ["params", "flops", "latency_ms"]
    assert front["variants"]["params"]["layout"]["annotations"][0]["text"] == "half"
    assert front["variants"]["flops"]["layout"]["annotations"][0]["text"] == "flops"
    assert front["variants"]["latency_ms"]["layout"]["annotations"] == []
    assert front["variants"]["latency_ms"]["data"][0] == {"visible": False}
    assert "heads 8 8" in front["data"][1]["text"][0]
    assert "0→2 std_conv_3" in front["data"][2]["text"][0]
    assert front["data"][1]["error_y"]["array"] == pytest.approx([0.01188, 0.01215], abs=1e-5)
    titles = [a["aria-label"] for a in both.all("div") if a.get("class") == "plot"]
    assert titles == [
        "Pareto front", "Loss: teacher", "Loss: super-network", "Loss: AdaBERT's search",
        "Loss: AdaBERT's child", "Entropy and exploit probability: super-network",
        "Entropy: AdaBERT's search", "Theta: super-network",
        "P_alpha: AdaBERT's search beta0-gamma0_8-k3-s0",
        "P_alpha: AdaBERT's search beta4-gamma0_8-k3-s0",
    ]  # fmt: skip


def test_architectures_are_drawn(both: Page) -> None:
    labels = [str(a["aria-label"]) for a in both.all("svg")]
    assert labels[0].startswith("Of 4 layers with 12 heads and 1536 FFN neurons: layer 1: 8 of 12 heads")
    assert labels[0].endswith("layer 4: removed.")
    cells = both.all("img")
    assert len(cells) == 2
    assert all("max_pool_3" in str(a["alt"]) for a in cells)
    svg = base64.b64decode(str(cells[0]["src"]).partition(",")[2]).decode()
    assert svg.startswith("<svg")
    assert "std_conv_3" in svg


def test_the_page_loads_nothing_from_a_network(both: Page) -> None:
    for tag, attributes in both.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    assert not both.all("link")
    assert not both.all("iframe")
    assert not both.all("base")
    styles = [text for name, text in both.scripts.items() if str(name).startswith("style ")]
    assert styles
    assert not any("@import" in s or "url(" in s for s in styles)
    policy = next(str(a["content"]) for a in both.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy
    run = [t for n, t in both.scripts.items() if str(n).startswith("script ")]
    assert len(run) == 2
    for text in run:  # the policy allows exactly these two scripts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_phones_dark_mode_and_screen_readers(both: Page) -> None:
    metas = {str(a.get("name")): a.get("content") for a in both.all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    style = next(t for n, t in both.scripts.items() if str(n).startswith("style "))
    assert "@media (prefers-color-scheme: dark)" in style
    assert "overflow-x: auto" in style
    assert both.all("html")[0]["lang"] == "en"
    count = {
        tag: len(both.all(tag)) for tag in ("table", "caption", "h1", "main", "figure", "figcaption")
    }
    assert count["table"] == count["caption"]
    assert count["h1"] == count["main"] == 1
    assert all(a.get("scope") in ("col", "row") for a in both.all("th"))
    ids = [a["id"] for _, a in both.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    for plot in (a for a in both.all("div") if a.get("class") == "plot"):
        assert plot["role"] == "img"
        assert plot["aria-label"]
        assert plot["aria-describedby"] in ids
    levels = [int(t[1]) for t, _ in both.elements if re.fullmatch("h[1-6]", t)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_names_from_the_run_are_shown_as_text(tmp_path: Path) -> None:
    task = {"name": ATTACK, "train": None, "max_length": 64}
    run = begin_run(tmp_path, task=task, **{ATTACK: {ATTACK: [ATTACK]}})
    finish_run(run, budgets=(ATTACK, "flops"))
    write_json(run / "environment.json", {ATTACK: ATTACK})
    text = write_report(run, tmp_path / "r.html").read_text()
    html_page = Page(text)
    assert "x" not in [a.get("src") for a in html_page.all("img")]
    assert not any(name.startswith("on") for _, attributes in html_page.elements for name in attributes)
    assert len([n for n in html_page.scripts if str(n).startswith("script ")]) == 2
    assert ATTACK in html_page.text  # in the summary table, as plain text
    assert "49" not in html_page.text
    labels = [n["text"] for n in html_page.plots()[0]["layout"]["annotations"]]
    assert labels == [ATTACK.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")]
    plot_data = json.dumps([p["data"] for p in html_page.plots()])
    assert "<img" not in plot_data
    assert "<script" not in plot_data


def test_the_overview_of_data_and_teacher_comes_first(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    overview = {
        "rows": [{"title": "train", "text": f"10 rows: {ATTACK} 5 (50%)"}],
        "warnings": ["Texts are cut."],
        "notes": ["2 rows are left out."],
        "figures": {},
    }
    write_json(RunLayout(run).overview, overview)
    html_page = read_page(write_report(run, tmp_path / "r.html"))
    ids = [str(a.get("id")) for t, a in html_page.elements if t == "h2"]
    assert ids[0] == "overview"
    assert f"10 rows: {ATTACK} 5 (50%)" in html_page.text
    assert "2 rows are left out." in html_page.text
    assert "Texts are cut." in " ".join(html_page.text)

    write_json(RunLayout(run).overview, {"rows": [1]})
    with pytest.raises(UserError, match=r"overview\.json is damaged"):
        write_report(run, tmp_path / "r.html")


def test_a_difference_within_chance_is_named_so(both: Page) -> None:
    shown_text = " ".join(both.text)
    assert "binomial, sqrt(p (1 - p) / n)" in shown_text
    assert "500 on selection, 1,000 on validation" in shown_text
    assert (
        "yoco half: Validation 0.830 is 0.010 below the teacher's 0.840. No difference is shown (unpaired"
        in shown_text
    )
    assert "the teacher's own gap is +0.000" in shown_text


def test_another_metric_has_no_binomial_error(tmp_path: Path) -> None:
    html_page = read_page(write_report(write_run(tmp_path, metric="matthews"), tmp_path / "r.html"))
    assert any("matthews is not a share of correct predictions" in t for t in html_page.text)
    assert "error_y" not in html_page.plots()[0]["data"][1]


def test_a_run_that_has_only_its_settings(tmp_path: Path) -> None:
    html_page = read_page(write_report(begin_run(tmp_path), tmp_path / "out" / "r.html"))
    shown_text = " ".join(html_page.text)
    for missing in (
        "has not deployed a model yet",
        "No architecture has been evaluated yet",
        "No training step has been recorded yet",
        "No distribution has been recorded yet.",
    ):
        assert missing in shown_text
    assert html_page.plots() == []


def test_several_runs_on_one_page(tmp_path: Path) -> None:
    write_run(tmp_path, "a-11111111")
    write_run(tmp_path, "b-22222222", budgets=("other", "flops"))
    third = begin_run(tmp_path, "c-33333333", task={"name": "glue/mrpc", "max_length": 128})
    finish_run(third, metric="f1")
    tables = load_tables(tmp_path)
    assert [len(part.runs) for _, part in group_comparable_runs(tables)] == [2, 1]
    html_page = read_page(write_report([tmp_path], tmp_path / "r.html"))
    assert "3 runs" in html_page.text
    fronts = [p for p in html_page.plots() if p["variants"]]
    assert len(fronts) == 2
    labels = fronts[0]["variants"]["params"]["layout"]["annotations"]
    assert [n["text"] for n in labels] == ["half, other"]
    assert "Settings that differ between the runs" in html_page.text
    assert "task.name" in html_page.text


def test_a_page_of_too_many_runs_leaves_out_the_details_of_each(tmp_path: Path) -> None:
    write_run(tmp_path, "a-11111111")
    html_page = Page(page.render_page(load_tables(tmp_path), 0.0))
    shown_text = " ".join(html_page.text)
    assert "too many runs to show curves" in shown_text
    assert "yoco" in shown_text
    assert not {"training", "distribution", "architectures"} & {
        a.get("id") for _, a in html_page.elements
    }
    assert len(html_page.plots()) == 1  # the front


def test_a_reused_super_network_names_its_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for table in ("steps", "distribution"):
        shutil.rmtree(run / "tables" / table)
    write_json(run / "shared.json", {"teacher": "first-1", "supernet": "first-1"})
    shown_text = " ".join(read_page(write_report(run, tmp_path / "r.html")).text)
    assert "The super-network was reused from run first-1" in shown_text
    assert "recorded yet" not in shown_text


def test_fine_tuned_scores_have_a_column(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    tuned = {"name": "half", "deployed": True, "validation": 0.8125, "selection": 0.82}
    write_json(run / "finetune" / "half.json", tuned)
    write_json(run / "finetune" / "drawn-0.json", {**tuned, "name": "drawn-0", "deployed": False})
    html_page = read_page(write_report(run, tmp_path / "r.html"))
    assert "finetuned" in html_page.text
    # The printed name works in a condition; other budgets and methods have no value.
    rows = read_rows(run, "deployments", "finetuned > 0.8")
    assert rows[["method", "budget", "finetuned"]].values.tolist() == [["yoco", "half", 0.8125]]
    assert "finetuned" not in read_rows(write_run(tmp_path / "other"), "deployments").columns
    assert html_page.text.count("0.812") == 1
    assert any("fine-tuned 0.812" in t for t in html_page.text)


def test_bars_are_relative_to_the_full_network(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    shutil.rmtree(run / "tables" / "distribution")  # taken over: no theta of its own
    write_json(run / "facts.json", {"config": {"layer_heads": [16] * 6, "layer_ffn": [2048] * 6}})
    html_page = read_page(write_report(run, tmp_path / "r.html"))
    labels = [str(a.get("aria-label")) for a in html_page.all("svg")]
    assert any(label.startswith("Of 6 layers with 16 heads and 2048 FFN neurons") for label in labels)


def test_saved_outputs_give_a_paired_interval(tmp_path: Path) -> None:
    """The network is wrong wherever the teacher is, and ten times more: unpaired, that says nothing."""
    run = write_run(tmp_path)
    rows, n = read_table(run, "deployments"), 1000
    right = round(float(rows[rows["budget"] == "half"]["validation"].iloc[0]) * n)

    def logits(wrong: int) -> np.ndarray:
        out = np.tile(np.array([1.0, 0.0], np.float32), (n, 1))
        out[n - wrong :] = [0.0, 1.0]
        return out

    for name, wrong in (("yoco-half", n - right), ("teacher", n - 840)):
        write_array(RunLayout(run).predictions(name, "validation"), logits(wrong))
    write_array(RunLayout(run).predictions("labels", "validation"), np.zeros(n, np.int64))
    shown_text = " ".join(read_page(write_report(run, tmp_path / "r.html")).text)
    assert (
        "yoco half: Validation 0.830 is 0.010 below the teacher's 0.840. Chance does not explain"
        in shown_text
    )


def test_a_budget_that_was_not_met(tmp_path: Path) -> None:
    from raycomp.storage.tables import write_rows

    run = write_run(tmp_path)
    row = {"run": run.name, "method": "yoco", "budget": "tiny", "kind": "params", "limit": 1e6,
           "feasible": False, "metric": "accuracy", "reason": "the smallest has 12M"}  # fmt: skip
    write_rows(run, "deployments", [row], "more")
    html_page = read_page(write_report(run, tmp_path / "r.html"))
    assert "Budget tiny was not met: the smallest has 12M." in html_page.text
    assert "not met" in html_page.text


def test_the_page_draws_fewer_points_until_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, evaluations=3000)
    tables = load_tables(run)
    assert len(page.render_page(tables, 0.1)) < len(page.render_page(tables, 1.0)) - 100_000
    monkeypatch.setattr(
        page, "render_page", lambda tables, detail, *more: "x" * round(1000 * detail + 60)
    )
    monkeypatch.setattr(page, "LIMIT", 300)
    assert write_report(run, tmp_path / "r.html").stat().st_size == 160
    monkeypatch.setattr(page, "LIMIT", 60)
    assert write_report(run, tmp_path / "r.html").stat().st_size == 60
    monkeypatch.setattr(page, "LIMIT", 59)
    with pytest.raises(UserError, match=r"The page of 1 run has .* MB"):
        write_report(run, tmp_path / "r.html")

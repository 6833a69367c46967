"""The plot of how cost grows: what is read, what is refused, and what the page shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raycomp.errors import UserError
from raycomp.report import write_report
from raycomp.report.growth import MAX_BYTES, GrowthPoint, draw_growth_plots, read_growth
from tests.unit.report.page_reader import ATTACK, read_page
from tests.unit.report.run_factory import begin_run

ROW = {"what": "budgets", "series": "wall time", "x": 1, "value": 2.0, "unit": "s", "simulated": False}
ROWS = [
    *({**ROW, "x": 2**i, "value": 2.0 * 4**i} for i in (2, 0, 1)),
    *({**ROW, "series": "evaluations", "unit": "evaluations", "x": x, "value": 30} for x in (1, 4)),
    *({**ROW, "what": "workers", "series": "step", "x": x, "simulated": True} for x in (1, 64)),
]


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_each_thing_that_grows_is_a_plot_and_each_series_a_line(tmp_path: Path) -> None:
    first, second = draw_growth_plots(read_growth(write(tmp_path / "g.json", ROWS)))
    wall, evaluations, proportion = first.figure.data
    assert (list(wall.x), list(wall.y)) == ([1, 2, 4], [1, 4, 16])  # by size, relative to the smallest
    assert list(evaluations.y) == [1, 1]
    assert (list(proportion.x), list(proportion.y)) == ([1, 4], [1, 4])
    assert list(wall.text) == ["2 s", "8 s", "32 s"]
    assert first.figure.layout.xaxis.type == first.figure.layout.yaxis.type == "log"
    assert "wall time: 2 to 32 s, p = 2.00." in first.summary
    assert "evaluations: 30 to 30 evaluations, p = 0.00." in first.summary
    assert second.title == "Growth with workers"
    assert second.figure.data[0].line.dash == "dash"
    assert "2 to 2 s, p = 0.00, simulated." in second.summary


def test_a_single_size_has_no_exponent() -> None:
    (plot,) = draw_growth_plots([GrowthPoint("data", "tokenising", 250, 1.5, "s")])
    assert "tokenising: 1.5 to 1.5 s." in plot.summary


def test_the_page_has_the_section_where_a_file_is_given(tmp_path: Path) -> None:
    run, file = begin_run(tmp_path), write(tmp_path / "g.json", ROWS)
    html_page = read_page(write_report(run, tmp_path / "r.html", file))
    assert "growth" in [a.get("id") for a in html_page.all("h2")]
    assert [a["aria-label"] for a in html_page.all("div") if a.get("class") == "plot"] == [
        "Growth with budgets", "Growth with workers",
    ]  # fmt: skip
    assert any("p = 2.00" in text for text in html_page.text)  # the text alternative
    assert "How cost grows" not in read_page(write_report(run, tmp_path / "r.html")).text


def test_names_from_the_file_are_text_and_nothing_else(tmp_path: Path) -> None:
    row = {**ROW, "what": ATTACK, "series": ATTACK, "unit": ATTACK}
    html_page = read_page(
        write_report(begin_run(tmp_path), tmp_path / "r.html", write(tmp_path / "g.json", [row]))
    )
    assert "x" not in [a.get("src") for a in html_page.all("img")]
    assert len([n for n in html_page.scripts if str(n).startswith("script ")]) == 2
    assert "<img" not in json.dumps([p["data"] for p in html_page.plots()])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ('[{"what": "budgets"', "delimiter"),
        ("{}", "does not contain a list of rows"),
        ("[]", "does not contain a list of rows"),
        ("[" * 100_000, "is not a growth file"),
        (
            '[{"name": "a / b", "ratio": 1.0}]',
            "row 1 must have exactly the fields what, series, x, value, unit, simulated",
        ),
        (json.dumps([ROW, {**ROW, "more": 1}]), "row 2 must have"),
        (json.dumps([{**ROW, "unit": ""}]), "row 1: what, series and unit must be texts"),
        (json.dumps([{**ROW, "x": 0}]), "row 1: x and value must be finite numbers above 0"),
        (json.dumps([{**ROW, "value": float("nan")}]), "x and value must be finite"),
        (json.dumps([{**ROW, "value": 10**400}]), "x and value must be finite"),
        (json.dumps([{**ROW, "value": True}]), "x and value must be finite"),
        (json.dumps([{**ROW, "simulated": 1}]), "simulated must be true or false"),
        (" " * (MAX_BYTES + 1), "more than 1,048,576 bytes"),
        (b"\xff\xfe", "is not a growth file"),
    ],
)
def test_another_or_a_damaged_file_is_one_message(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = tmp_path / "g.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_growth(path)
    message = str(raised.value)
    assert said in message
    assert str(path) in message
    assert "python -m benchmarks.growth" in message
    assert len(message.splitlines()) == 1


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_growth(tmp_path / "none.json")

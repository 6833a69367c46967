"""The document's tables are made of the results' files, and of nothing else."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.measure import Claim, PairedFigures
from raycomp.errors import UserError
from raycomp.report.growth import GrowthPoint
from tools import benchmark_table as table

CLAIMS = [
    Claim.from_figures("a / b", PairedFigures((2.0, 4.0, 6.0), (4.0, 4.0, 4.0)), "lower", 1.05),
    Claim.from_figures("c / d", PairedFigures((2.0, 4.0, 6.0), (4.0, 4.0, 4.0)), "higher", 10.0),
]
POINTS = [
    GrowthPoint("budgets", "wall time", 1, 2, "s"),
    GrowthPoint("budgets", "wall time", 4, 4, "s"),
    GrowthPoint("data", "tokenising", 250, 0.5, "s"),
]


def write(path: Path, rows: list[Claim] | list[GrowthPoint]) -> Path:
    path.write_text(json.dumps([asdict(r) for r in rows]))
    return path


def test_a_row_a_claim(tmp_path: Path) -> None:
    name, text = table.build_table(write(tmp_path / "xeon-2026-01-01.json", CLAIMS))
    assert name == "claims"
    assert text.splitlines() == [
        "From `xeon-2026-01-01.json`.",
        "",
        "| claim | ratio | target | holds | spread | runs |",
        "|---|---|---|---|---|---|",
        "| a / b | 1 | <= 1.05 | yes | 0.75 to 1.25 | 3 |",
        "| c / d | 1 | >= 10 | no | 0.75 to 1.25 | 3 |",
    ]


def test_a_row_a_series(tmp_path: Path) -> None:
    name, text = table.build_table(write(tmp_path / "growth.json", POINTS))
    assert name == "growth"
    assert text.splitlines()[4:] == [
        "| budgets | wall time, s | 1: 2, 4: 4 | 0.50 |",
        "| data | tokenising, s | 250: 0.5 |  |",
    ]


def test_it_takes_the_place_of_the_former_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, file = tmp_path / "README.md", write(tmp_path / "g.json", POINTS)
    readme.write_text("above\n<!-- growth -->\nold\n<!-- end of growth -->\nbelow\n")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(sys, "argv", ["x", "--write", str(file)])
    table.main()
    once = readme.read_text()
    assert once.startswith("above\n<!-- growth -->\nFrom `g.json`.\n")
    assert once.endswith("|\n<!-- end of growth -->\nbelow\n")
    assert "old" not in once
    table.main()
    assert readme.read_text() == once
    monkeypatch.setattr(sys, "argv", ["x", str(file)])
    table.main()
    assert capsys.readouterr().out.strip() in once


@pytest.mark.parametrize("content", ["{", "[]", '[{"a": 1}]', '[{"ratio": 1}]', "null"])
def test_another_file_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["x", str(path)])
    with pytest.raises(SystemExit, match=r"x\.json is no"):
        table.main()


def test_a_document_without_marks_is_one_message() -> None:
    with pytest.raises(UserError, match="lacks a line <!-- claims -->"):
        table.replace_between_marks("text <!-- end of claims -->", "claims", "")


def test_the_document_has_the_marks() -> None:
    for name in ("claims", "growth"):
        assert "new" in table.replace_between_marks(table.README.read_text(), name, "new")

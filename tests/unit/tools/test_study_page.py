"""A study's page holds the study's own figures, and keeps what a person wrote around them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from raycomp.errors import UserError
from raycomp.report import ablation_table
from raycomp.report.text_table import TextTable
from tests.unit.report.study_factory import write_study
from tools import study_page
from tools.study_page import format_markdown, write_page


def test_the_page_holds_the_study_and_keeps_a_person_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_study(tmp_path)
    page = write_page(folder, tmp_path / "results")
    text = page.read_text()
    expected = ablation_table(folder)
    mean = expected.query("variant == 'good' and budget == 'half'")["mean"].item()
    assert f"| {mean:.3f} ± " in text
    assert "jobs/studies/tiny.toml --preset small" in text
    table = pd.read_csv(page.with_suffix(".csv"))
    assert table.columns.tolist() == expected.columns.tolist()
    assert table["mean"].tolist() == expected["mean"].tolist()  # all digits
    assert "(tiny.svg)" in text
    picture = page.with_suffix(".svg").read_text()
    assert "<svg" in picture
    for words in ("good", "teacher", "raycomp", "half"):
        assert f">{words}" in picture or f", {words}<" in picture  # text that can be read and searched

    # Drawing takes most of the time, and the text does not depend on it.
    monkeypatch.setattr(study_page, "draw_study", lambda study: Figure())
    page.write_text(text.replace("| good |", "| wrong |") + "\n## What it says\n\nMuch.\n")
    again = write_page(folder, tmp_path / "results").read_text()
    assert again == text + "\n## What it says\n\nMuch.\n"


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    folder, out = write_study(tmp_path, predictions=False), tmp_path / "results"
    out.mkdir()
    (out / "tiny.md").write_text("by hand\n")
    with pytest.raises(UserError, match="lacks a line"):
        write_page(folder, out)
    assert (out / "tiny.md").read_text() == "by hand\n"


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    table = TextTable("t", ["a", "b"], [["x|y", "1"]])
    assert format_markdown(table).splitlines()[2:] == ["| a | b |", "|---|--:|", "| x\\|y | 1 |"]

"""A study's page holds the study's own figures, and keeps what a person wrote around them."""

from __future__ import annotations

import shutil
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
    assert table.columns.tolist() == [*expected.columns, "study_id"]
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


def test_rows_that_a_directory_lacks_stay_and_name_their_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_page, "draw_study", lambda study: Figure())
    out = tmp_path / "results"
    first = write_study(tmp_path)
    page = write_page(first, out)
    scores = pd.read_csv(page.with_suffix(".csv"))
    shutil.rmtree(first)

    # The next study has other settings, and of its variants only two are finished.
    second = write_study(tmp_path, name="tiny-5e6f7a8b")
    for part in (second / "tables" / "ablations").glob("same-*"):
        part.unlink()
    text = write_page(second, out).read_text()

    (kept,) = [
        line for line in text.splitlines() if line.startswith("| same | 0") or "| half | same |" in line
    ]
    assert kept.startswith("| demo/polarity (1a2b3c4d) | half | same |")
    before = scores.query("variant == 'same' and budget == 'half'").iloc[0]
    assert f"| {before['mean']:.3f} ± {before['sd']:.3f} |" in kept
    assert f"| {before['difference']:+.3f} |" in kept
    assert "| demo/polarity | half | good |" in text
    assert "| demo/polarity (1a2b3c4d) | half | good |" not in text
    assert [line[:13] for line in text.splitlines() if "Command: " in line] == [
        "tiny-5e6f7a8b",
        "tiny-1a2b3c4d",
    ]

    after = pd.read_csv(page.with_suffix(".csv"))
    assert after.groupby("study_id")["variant"].unique().map(sorted).to_dict() == {
        "tiny-1a2b3c4d": ["same"],
        "tiny-5e6f7a8b": ["good", "plain", "teacher"],
    }
    runs = pd.read_csv(out / "tiny-runs.csv")
    assert set(runs.query("study_id == 'tiny-1a2b3c4d'")["variant"]) == {"same"}
    assert write_page(second, out).read_text() == text


def test_a_finished_study_replaces_the_rows_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_page, "draw_study", lambda study: Figure())
    out = tmp_path / "results"
    write_page(write_study(tmp_path), out)
    text = write_page(write_study(tmp_path, name="tiny-5e6f7a8b"), out).read_text()
    assert "1a2b3c4d" not in text
    studies = pd.read_csv(out / "tiny-studies.csv")
    assert studies["study_id"].tolist() == ["tiny-5e6f7a8b"]


def test_rows_of_an_unknown_study_are_not_dropped(tmp_path: Path) -> None:
    out = tmp_path / "results"
    out.mkdir()
    study = write_study(tmp_path, predictions=False)
    table = ablation_table(study)
    table.assign(variant="gone").to_csv(out / "tiny.csv", index=False)
    with pytest.raises(UserError, match=r"gone \(demo/polarity\).*Add a column study_id"):
        write_page(study, out)
    assert not (out / "tiny.md").exists()


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

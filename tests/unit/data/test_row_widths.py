"""Rows with fewer fields than the header, and texts that are cut at a comma: noted or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycomp.data.tasks import Task
from raycomp.errors import UserError
from tests.unit.data.test_files import load, num_rows, rows, write_csv

HEADER = "label,text,comment"
SHORT = "of 60 rows have fewer than 3 fields"
BLANK = "rows the column 'comment', which follows the text 'text', begins with a blank"


def noted(task: Task) -> str:
    return " ".join(task.notes)


def lines(*endings: str) -> list[str]:
    """Return rows with their label and text, and the endings in turn."""
    pairs = enumerate(rows())
    return [f"{label},{words}{endings[number % len(endings)]}" for number, (words, label) in pairs]


def test_short_rows_are_counted_with_the_first_line(tmp_path: Path) -> None:
    task = load(write_csv(tmp_path / "t.csv", lines(",good", ",bad", ""), HEADER))
    assert num_rows(task) == 60
    assert f"20 {SHORT}; the first is line 4 (row 2). Their last cells are empty" in noted(task)
    task = load(write_csv(tmp_path / "all.csv", lines(""), HEADER))
    assert f"60 {SHORT}; the first is line 2 (row 0)" in noted(task)


def test_short_rows_of_a_tsv_file_are_counted(tmp_path: Path) -> None:
    tabs = [line.replace(",", "\t") for line in lines(",good", "")]
    task = load(write_csv(tmp_path / "t.tsv", tabs, HEADER.replace(",", "\t")))
    assert f"30 {SHORT}" in noted(task)
    assert "texts lack tabs" in noted(task)


@pytest.mark.parametrize("header", ["label,text,comment", "label,text,comment,stars"])
@pytest.mark.parametrize("endings", [(", dull", ""), (", dull", "", "", "", "", "")])
def test_texts_that_a_comma_cuts_in_some_rows_are_refused(
    endings: tuple[str, ...], header: str, tmp_path: Path
) -> None:
    """The other rows have no comma in the text and no comment."""
    with pytest.raises(UserError, match=rf"{BLANK}.*line 2 \(row 0\).*lack this column.*in quotes"):
        load(write_csv(tmp_path / "t.csv", lines(*endings), header))


def test_texts_that_a_comma_may_cut_are_a_note(tmp_path: Path) -> None:
    task = load(write_csv(tmp_path / "t.csv", lines(", dull", ",checked"), HEADER))
    assert f"in 30 of 60 {BLANK}; the first is line 2 (row 0)" in noted(task)
    # Two remarks with a blank do not show that texts are cut, and the short rows are noted.
    few = lines("")
    few[4] += ", see page 3"
    task = load(write_csv(tmp_path / "few.csv", few, HEADER))
    assert f"59 {SHORT}" in noted(task)


def test_words_in_the_label_column_are_a_note(tmp_path: Path) -> None:
    body = [f"{words}{', dull' * (number % 2)},{label}" for number, (words, label) in enumerate(rows())]
    task = load(write_csv(tmp_path / "t.csv", body, "text,label,comment"), labels=["neg", "pos", " dull"])
    assert "in 30 of 60 rows the column 'label', which follows the text 'text'" in noted(task)


@pytest.mark.parametrize(
    ("header", "endings"),
    [
        (HEADER, (",", ",good")),
        (HEADER, (",", ", good")),
        (HEADER, (',"so, good"', ',"a\nb"')),
        ("label, text, comment", (", good", ", bad")),
        ("label,text, comment", (", good", "")),
    ],
)
def test_well_formed_files_have_no_note_about_cut_texts(
    header: str, endings: tuple[str, ...], tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "t.csv", lines(*endings), header)
    text = header.split(",")[1]
    notes = noted(load(path, text=[text]))
    assert "begins with a blank" not in notes
    if "" not in endings:
        assert "fewer" not in notes


def test_a_file_with_a_blank_after_each_comma_is_not_refused(tmp_path: Path) -> None:
    body = [f"{label}, {words}{', good' * (number % 2)}" for number, (words, label) in enumerate(rows())]
    assert num_rows(load(write_csv(tmp_path / "t.csv", body, HEADER))) == 60

"""Files for `raycomp predict`: rows that a quote swallows are refused or noted, also without labels."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raycomp.api import prediction
from raycomp.config.task import TaskSettings
from raycomp.data.unlabelled import read_test_rows, read_unlabelled_file
from raycomp.errors import UserError
from tests.unit.data.test_files import QQP, text, write_csv

SETTINGS = TaskSettings(train="train.csv", text=["text"], label="label")

# Header -> one row of such a file; all have the column that the task reads.
LAYOUTS: dict[str, str] = {
    "text,label": "{text},{label}",
    "id,text": "{id},{text}",
    "text,id": "{text},{id}",
    "id,text,source": "{id},{text},{source}",
    "key,text": "r-{id:04},{text}",
    "text,source": "{text},{source}",
    "text,label,stars": "{text},,{stars}",
}


def lines(layout: str, count: int = 20, **changed: str) -> list[str]:
    """Return rows of a layout; `changed` has the texts of some rows by their number, as `row5`."""
    found = []
    for number in range(count):
        words = changed.get(f"row{number}", text(number))
        cells = {"id": number + 7, "label": "ab"[number % 2], "source": ("web", "shop")[number % 2]}
        found.append(layout.format(text=words, stars=number % 5 + 1, **cells))
    return found


@pytest.mark.parametrize("later", [6, 8])
@pytest.mark.parametrize("header", LAYOUTS)
def test_rows_that_a_quote_swallows_are_refused(header: str, later: int, tmp_path: Path) -> None:
    broken = lines(LAYOUTS[header], row5='"so warm', **{f"row{later}": 'a tired story"'})
    path = write_csv(tmp_path / "new.csv", broken, header)
    with pytest.raises(UserError, match=r"line 7 \(row 5\).*quote"):
        read_unlabelled_file(SETTINGS, path)


@pytest.mark.parametrize("header", LAYOUTS)
@pytest.mark.parametrize(
    "words",
    [
        '"so warm\nand tender"',
        '"First:\n1, open it\n2, read it"',
        '"Dear all,\nso warm, web\nYours, Ann"',
    ],
)
def test_texts_with_line_breaks_are_read_and_noted(words: str, header: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "new.csv", lines(LAYOUTS[header], row5=words), header)
    rows = read_unlabelled_file(SETTINGS, path)
    assert len(rows.texts) == 20
    assert rows.texts.text_a[5] == words.strip('"')
    assert "1 of 20 rows have a line break" in rows.notes[0]


def test_a_file_of_texts_only_notes_the_rows_with_line_breaks(tmp_path: Path) -> None:
    """Its lines could be rows or parts of a text, which only the user knows."""
    path = write_csv(tmp_path / "new.csv", lines("{text}", row5='"so warm', row9='a story"'), "text")
    rows = read_unlabelled_file(SETTINGS, path)
    assert len(rows.texts) == 16
    assert "the first is row 5 in lines 7 to 11" in rows.notes[0]


def test_the_notes_of_each_file_are_shown_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_csv(tmp_path / "new.csv", lines("{text}", row5='"so warm\nand tender"'), "text")
    rows = read_unlabelled_file(SETTINGS, path)
    job = SimpleNamespace(task=SETTINGS)
    run = SimpleNamespace(job=job, url=None, local_directory=lambda: tmp_path)
    deployment: Any = SimpleNamespace(
        run=run, method="yoco", budget="half", load=lambda: None, load_tokenizer=lambda: None
    )
    monkeypatch.setattr("raycomp.methods.context.RunContext", lambda job, run_dir: None)
    monkeypatch.setattr(prediction, "_read_parts", lambda context, split, data: [rows, rows])
    monkeypatch.setattr(prediction, "_predict", lambda *arguments: np.zeros((20, 2)))
    monkeypatch.setattr(prediction, "_file_name", lambda *arguments: "new.tsv")
    monkeypatch.setattr(prediction, "_format", lambda *arguments: "")
    shown: list[str] = []
    prediction.predict_rows(deployment, "test", path, tmp_path, shown.append)
    assert shown == list(rows.notes)
    with caplog.at_level(logging.WARNING, "raycomp"):
        prediction.predict_rows(deployment, "test", path, tmp_path)
    assert [record.getMessage() for record in caplog.records] == list(rows.notes)


def test_rows_of_glue_that_are_left_out_are_noted(tmp_path: Path) -> None:
    header = QQP.removesuffix("\tis_duplicate")
    body = [f"{number}\t1\t2\twhy is {number}\tis it {number}" for number in range(100)]
    body[20] = "20\t20\t20\twho baked the bread in"
    (tmp_path / "QQP").mkdir()
    write_csv(tmp_path / "QQP" / "test.tsv", body, header)
    parts = read_test_rows(TaskSettings(name="glue/qqp", folder=str(tmp_path)), "test")
    assert parts is not None
    assert len(parts[0].texts) == 99
    assert "1 of 100 rows have fewer than 5 fields and are left out" in parts[0].notes[0]

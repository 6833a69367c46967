"""Labels in quotes that are not quotes, joined files, pretty JSON, odd labels, and disguised copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycomp.config.task import TaskSettings
from raycomp.data.overview import describe_task
from raycomp.data.tasks import load_task
from raycomp.errors import UserError
from tests.unit.data.test_files import load, num_rows, rows

ROWS = rows()


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def warnings_of(train: Path, **changes: str) -> str:
    settings = TaskSettings(train=str(train), text=["text"], label="label", **changes)
    return " ".join(describe_task(load_task(settings, 0), settings).warnings)


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("rows.tsv", "text\tlabel", '"{}"\t"{}"'),
        ("rows.tsv", "text\tlabel", '{}\t"{}"'),
        ("rows.csv", "text,label", '"{}", "{}"'),
        ("rows.csv", "text,label", '{},  "{}" '),
    ],
)
def test_labels_in_quotes_that_are_not_quotes_are_refused(
    name: str, header: str, row: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, [header, *(row.format(*pair) for pair in ROWS)])
    with pytest.raises(UserError, match='each label is in quotes, such as "neg"'):
        load(path)


def test_quotes_of_csv_and_of_some_labels_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ["text,label", *(f'"{a}","{b}"' for a, b in ROWS)])
    assert load(path).label_names == ("neg", "pos")
    lines = [f'{a}\t"{b}"' if b == "neg" else f"{a}\t{b}" for a, b in ROWS]
    assert load(write(tmp_path / "rows.tsv", ["text\tlabel", *lines])).label_names == ('"neg"', "pos")


def test_a_joined_file_with_a_mark_of_its_encoding_is_refused(tmp_path: Path) -> None:
    half = [f"{a},{b}" for a, b in ROWS]
    path = write(tmp_path / "rows.csv", ["text,label", *half, "\ufefftext,label", *half])
    with pytest.raises(UserError, match=r"line 62 \(row 60\) repeats the header"):
        load(path)


@pytest.mark.parametrize(
    ("indent", "is_array", "words"),
    [
        (1, True, "it is a JSON array and not JSON lines"),
        (None, True, "it is a JSON array and not JSON lines"),
        (1, False, "line 1 is not a JSON object, but the begin of one over several lines"),
    ],
)
def test_json_for_people_is_not_json_lines(
    indent: int | None, is_array: bool, words: str, tmp_path: Path
) -> None:
    objects = [{"text": a, "label": b} for a, b in ROWS]
    if is_array:
        lines = [json.dumps(objects, indent=indent)]
    else:
        lines = [json.dumps(row, indent=indent) for row in objects]
    with pytest.raises(UserError, match=rf"{words}\. Write one object per line"):
        load(write(tmp_path / "rows.json", lines))


def test_a_class_of_one_row_among_large_ones_is_a_warning(tmp_path: Path) -> None:
    lines = ["text,label,id", *(f"{a},{b},{i}" for i, (a, b) in enumerate(ROWS))]
    assert "have one row" not in warnings_of(write(tmp_path / "rows.csv", lines))
    # An unquoted comma shifts the columns, and the row still has three fields.
    lines[8] = "so, a warm tale of a baker,pos"
    assert "1 of 3 classes have one row ( a warm tale" in warnings_of(write(tmp_path / "rows.csv", lines))


def test_validation_labels_that_are_all_equal_are_a_warning(tmp_path: Path) -> None:
    train = write(tmp_path / "rows.csv", ["text,label", *(f"{a},{b}" for a, b in ROWS)])
    other = [f"other words {number},neg" for number in range(9)]
    held_out = write(tmp_path / "held.csv", ["text,label", *other])
    assert "All rows of validation have the label neg" in warnings_of(train, validation=str(held_out))
    other[0] = "other words,pos"
    held_out = write(tmp_path / "held.csv", ["text,label", *other])
    assert "All rows of validation" not in warnings_of(train, validation=str(held_out))

    lines = [f"{a},{number}" for number, (a, _) in enumerate(ROWS)]
    train = write(tmp_path / "numbers.csv", ["text,label", *lines])
    held_out = write(tmp_path / "held.csv", ["text,label", "one,3", "two,3"])
    found = warnings_of(train, validation=str(held_out), kind="regression")
    assert "All rows of validation have the label 3" in found


@pytest.mark.parametrize(
    ("written", "copied"),
    [("caf\u00e9", "cafe\u0301"), ("film", "\uff46\uff49\uff4c\uff4d"), ("film", "fi\u200blm")],
)
def test_rows_in_other_characters_for_the_same_letters_are_shared(
    written: str, copied: str, tmp_path: Path
) -> None:
    train = write(tmp_path / "a.csv", ["text,label", *(f"{written} {a},{b}" for a, b in ROWS)])
    held_out = write(tmp_path / "b.csv", ["text,label", *(f"{copied} {a},{b}" for a, b in ROWS)])
    with pytest.raises(UserError, match="60 of 60 rows of validation are also in train"):
        load(train, validation=str(held_out))
    assert num_rows(load(train, validation=str(held_out), allow_shared_rows=True)) == 120

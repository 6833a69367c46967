"""Cells that stand for a missing label or text, and settings of the columns: refused, or a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raycomp.config.task import TaskSettings
from raycomp.data.overview import describe_task
from raycomp.data.tasks import load_task
from raycomp.errors import UserError
from tests.unit.data.test_files import load, text

NUM_ROWS = 60


def write(path: Path, labels: list[Any], texts: list[str] | None = None) -> Path:
    texts = texts or [text(row) for row in range(len(labels))]
    if path.suffix == ".csv":
        path.write_text(
            "text,label\n" + "".join(f"{a},{b}\n" for a, b in zip(texts, labels, strict=True))
        )
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    else:
        lines = [json.dumps({"text": a, "label": b}) for a, b in zip(texts, labels, strict=True)]
        path.write_text("\n".join(lines) + "\n")
    return path


def cycle(*labels: Any) -> list[Any]:
    return [labels[row % len(labels)] for row in range(NUM_ROWS)]


def warnings_of(path: Path, **changes: Any) -> str:
    settings = TaskSettings(**{"train": str(path), "text": ["text"], "label": "label", **changes})
    overview = describe_task(load_task(settings, 0), settings)
    return " ".join((*overview.warnings, *overview.notes))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("blank", ["", " ", "\t", "\u3000"])
def test_a_blank_label_is_missing_in_every_format(blank: str, ending: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 2: the label is missing"):
        load(write(tmp_path / f"rows.{ending}", cycle("neg", "pos", blank)))


@pytest.mark.parametrize("mark", ["-1", "-100"])
def test_the_marks_of_rows_without_a_label_are_not_classes(mark: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", cycle("0", "1", "2", mark))
    with pytest.raises(UserError, match=f"15 rows of train have the label {mark}, .* are 0 to 2"):
        load(path)
    assert load(path, labels=["0", "1", "2", mark]).num_labels == 4


@pytest.mark.parametrize("mark", ["NA", "nan", "None", "NULL", "N/A", "<NA>"])
def test_the_text_of_a_missing_cell_is_a_word_with_a_warning(mark: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", cycle("neg", "pos", mark))
    assert f"The label {mark} is taken as a class" in warnings_of(path)
    assert "taken as" not in warnings_of(path, labels=["neg", "pos", mark])


@pytest.mark.parametrize(
    ("labels", "is_warned"),
    [
        (("neg", "pos", "-1"), True),
        (("0", "-1"), True),
        (("0", "1", "-1"), True),
        (("1", "-1"), False),
        (("none", "some"), False),
    ],
)
def test_minus_one_is_a_class_with_a_warning(labels: tuple[str], is_warned: bool, tmp_path: Path) -> None:
    found = "The label -1 is taken as a class" in warnings_of(write(tmp_path / "r.csv", cycle(*labels)))
    assert found == is_warned


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_infinite_label_is_not_a_class(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows.{ending}", cycle(0.0, 1.0, float("inf")))
    with pytest.raises(UserError, match="20 rows of train have an infinite label; the first is row 2"):
        load(path)


def test_blank_texts_are_counted(tmp_path: Path) -> None:
    texts = [text(row) if row % 6 else " " for row in range(NUM_ROWS)]
    path = write(tmp_path / "rows.jsonl", cycle("neg", "pos"), texts)
    assert "rows of train have a blank text" in warnings_of(path)


def test_the_user_has_not_set_the_share_of_validation(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ["neg", "pos", "neg", "pos"])
    with pytest.raises(UserError, match=r"10% of its 4 training rows .* Set task\.validation to a file"):
        load(path)
    path = write(tmp_path / "rows.csv", cycle("neg", "pos"), ["the same words here"] * NUM_ROWS)
    with pytest.raises(UserError, match=r"all rows are one group of related texts\. Check task\.text"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ["text", "text"]}, "the text column 'text' twice"),
        ({"text": ["label"]}, "'label' as text and as label"),
        ({"text": ["text", "label"]}, "'label' as text and as label"),
        ({"text": [""]}, "a column without a name"),
        ({"label": ""}, "a column without a name"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskSettings(**{"train": "rows.csv", "text": ["text"], "label": "label", **changes})


def test_blank_names_of_classes_and_metrics_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", cycle("neg", "pos"))
    with pytest.raises(UserError, match="a blank class name"):
        load(path, labels=["neg", "pos", " "])
    for labels in ([], ["pos"]):
        with pytest.raises(UserError, match="Name at least two classes"):
            load(path, labels=labels)
    with pytest.raises(UserError, match=r"task\.metric = ''"):
        load(path, metric="")

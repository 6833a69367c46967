"""From labels as they are written to classes."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data.tasks import Task, load_task
from raycomp.errors import UserError

ENDINGS = ("csv", "tsv", "jsonl", "parquet")


def write(path: Path, labels: list[Any], repeat: int = 20) -> Path:
    """Write a file whose label column has the given values as they are."""
    values = labels * repeat
    texts = [f"text number {i} of {path.stem}" for i in range(len(values))]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": t, "label": v}) for t, v in zip(texts, values, strict=True)]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts, "label": values}), path)
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [f"{t}{mark}{v}" for t, v in zip(texts, values, strict=True)]
        path.write_text("\n".join([f"text{mark}label", *lines]))
    return path


def load(path: Path, **changes: Any) -> Task:
    return load_task(
        TaskSettings(**{"train": str(path), "text": ["text"], "label": "label", **changes}), 0
    )


CLASSES = {
    "codes with a zero at the end": (["1.1", "1.10", "2.1", "2.10"], ("1.1", "1.10", "2.1", "2.10")),
    "codes with an underscore": (["1_1", "11", "1_10"], ("11", "1_1", "1_10")),
    "codes with zeros in front": (["001", "010", "100"], ("001", "010", "100")),
    "zeros in front, and without": (["01", "1", "2"], ("01", "1", "2")),
    "true and false": (["true", "false"], ("false", "true")),
    "true, false and more": (["true", "false", "unknown"], ("false", "true", "unknown")),
    "words for nothing": (["None", "NA", "null", "nan"], ("NA", "None", "nan", "null")),
    "eleven numbers": ([str(i) for i in range(11)], tuple(map(str, range(11)))),
    "negative numbers": (["-1", "0", "1"], ("-1", "0", "1")),
    "plus and minus": (["-1", "+1"], ("-1", "1")),
    "stars": (["5", "4", "3", "2", "1"], ("1", "2", "3", "4", "5")),
    "numbers and words": (["0", "1", "spam"], ("0", "1", "spam")),
    "dates": (["2020-01", "2020-02"], ("2020-01", "2020-02")),
    "digits of another script": (["٣", "٤"], ("٣", "٤")),
    "words": (["neg", "pos"], ("neg", "pos")),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", CLASSES)
def test_labels_are_classes_as_they_are_written(name: str, ending: str, tmp_path: Path) -> None:
    labels, expected = CLASSES[name]
    assert load(write(tmp_path / f"t.{ending}", labels)).label_names == expected


NUMBERS = {
    "whole numbers": ([0, 1, 10, 2], ("0", "1", "2", "10")),
    "whole numbers as floats": ([0.0, 1.0, 2.0], ("0", "1", "2")),
    "large numbers": ([2**60, 2**60 + 1], (str(2**60), str(2**60 + 1))),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NUMBERS)
def test_whole_numbers_of_every_format_are_the_same_classes(
    name: str, ending: str, tmp_path: Path
) -> None:
    labels, expected = NUMBERS[name]
    assert load(write(tmp_path / f"t.{ending}", labels)).label_names == expected


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_truth_values_keep_their_names(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.{ending}", [True, False])
    assert load(path).label_names == ("False", "True")
    assert load(path, labels=["false", "true"]).label_names == ("false", "true")


def test_other_types_of_parquet_are_text(tmp_path: Path) -> None:
    days = [datetime.date(2020, 1, 2), datetime.date(2020, 1, 1)]
    assert load(write(tmp_path / "t.parquet", days)).label_names == ("2020-01-01", "2020-01-02")


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        (["1.0", "2.0"], ["1", "2"]),
        (["1", "2"], ["1.0", "2.0"]),
        ([" 1", " 2"], ["1", "2"]),
        (["true", "false", "unknown"], ["true", "false"]),
    ],
)
def test_a_class_of_another_file_is_recognised(
    train: list[str], held_out: list[str], tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{name}.csv", values) for name, values in (("a", train), ("b", held_out))]
    task = load(paths[0], validation=str(paths[1]))
    assert set(task.validation[0].labels.tolist()) <= set(task.train.labels.tolist())


def test_one_unknown_label_does_not_change_the_others(tmp_path: Path) -> None:
    """A large file with many columns: pandas would decide the type of each block of rows by itself."""
    path = tmp_path / "t.csv"
    zeros = ",".join("0" * 62)
    header = ",".join(f"c{i}" for i in range(62))
    lines = [f"row {i},{('true', 'false')[i % 2]},{zeros}" for i in range(20_000)]
    path.write_text("\n".join([f"text,label,{header}", *lines, f"last row,unknown,{zeros}"]))
    assert load(path).label_names == ("false", "true", "unknown")


SIMILAR = {
    "blanks and case": ["neg", "pos", "neg ", "Neg"],
    "a blank in front": ["neg", "pos", " neg"],
    "two blanks inside": ["not good", "good", "not  good"],
    "a narrow blank": ["neg", "pos", "neg\u00a0"],
    "an invisible character": ["neg", "pos", "neg\u200b"],
    "case": ["Spam", "spam"],
    "wide letters": ["neg", "pos", "ｎｅｇ"],
    "true and True": ["true", "True", "false"],
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SIMILAR)
def test_labels_that_look_alike_are_refused_with_their_counts(
    name: str, ending: str, tmp_path: Path
) -> None:
    labels = SIMILAR[name]
    path = write(tmp_path / f"t.{ending}", labels)
    with pytest.raises(UserError) as caught:
        load(path)
    assert "differ only in case, blanks or invisible characters" in str(caught.value)
    assert f"'{labels[0]}' (20 rows)" in str(caught.value)
    # A user who lists the classes means them.
    assert load(path, labels=sorted(labels)).num_labels == len(labels)


def test_a_held_out_label_that_looks_like_a_class_is_explained(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ["neg", "pos"])
    held_out = write(tmp_path / "b.csv", ["Neg", "pos"])
    with pytest.raises(UserError, match="differs from 'neg' only in case"):
        load(train, validation=str(held_out))


SCORES = {
    "steps of a fifth": [f"{i * 0.2:.1f}" for i in range(26)],
    "halves": ["0.5", "1.0", "1.5", "2.0"],
    "one fraction": ["1", "2", "2.5"],
    "exponents": ["1e-3", "2e-3", "5e-1"],
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SCORES)
def test_scores_are_not_classes_unless_the_job_says_so(name: str, ending: str, tmp_path: Path) -> None:
    labels: list[Any] = SCORES[name]
    if ending in ("jsonl", "parquet"):
        labels = list(map(float, labels))
    path = write(tmp_path / f"t.{ending}", labels)
    with pytest.raises(UserError, match=r'task\.kind = "regression".*task\.kind = "classification"'):
        load(path)
    real = load(path, kind="regression")
    assert sorted(set(real.train.labels.tolist())) == sorted({float(np.float32(v)) for v in labels})
    assert load(path, kind="classification").num_labels == len(labels)


@pytest.mark.parametrize(
    "labels", [[180_000 + 137 * i for i in range(60)], [f"name {i}" for i in range(60)]]
)
def test_a_label_of_its_own_in_each_row_is_not_a_class(labels: list[Any], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", labels, repeat=1)
    with pytest.raises(UserError, match="60 rows of train have 60 different labels"):
        load(path)
    assert load(write(tmp_path / "u.csv", labels, repeat=3)).num_labels == 60


@pytest.mark.parametrize("label", ["1_1", "x", "inf", "nan", "0x1", "1,5", ""])
def test_a_target_that_is_not_a_number_is_named(label: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", ["1.5", "2.5", label])
    with pytest.raises(UserError, match=r"row 2: (label|the label)"):
        load(path, kind="regression")


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_mark_of_rows_without_a_label_is_not_a_class(ending: str, tmp_path: Path) -> None:
    labels: list[Any] = ["0", "1", "2", "-1"]
    if ending in ("jsonl", "parquet"):
        labels = [0, 1, 2, -1]
    path = write(tmp_path / f"t.{ending}", labels)
    with pytest.raises(
        UserError, match="20 rows of train have the label -1, and the other labels are 0 to 2"
    ):
        load(path)
    assert load(path, labels=["-1", "0", "1", "2"]).num_labels == 4


def hub(monkeypatch: pytest.MonkeyPatch, labels: list[int], names: list[str] | None) -> None:
    """Replace the Hub by a dataset whose label column knows its names, or does not."""
    import datasets

    feature = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})

    def split(name: str) -> Any:
        texts = [f"{name} text {i}" for i in range(20 * len(labels))]
        return datasets.Dataset.from_dict({"text": texts, "label": labels * 20}, features=features)

    class Builder:
        __module__ = "datasets.packaged_modules.parquet.parquet"

        def download_and_prepare(self) -> None:
            pass

        def as_dataset(self) -> dict[str, Any]:
            return {"train": split("train"), "validation": split("validation")}

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: Builder())


HUB = TaskSettings(name="owner/data", text=["text"], label="label")
NAMES = ["entailment", "neutral", "contradiction"]


def test_a_hub_dataset_keeps_the_names_and_order_of_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [2, 0, 1], NAMES)
    task = load_task(HUB, 0)
    assert task.label_names == tuple(NAMES)
    assert task.notes == ()
    text = "train text 0"
    split = next(s for s in (task.train, task.selection) if text in s.text_a)
    assert split.labels[split.text_a.index(text)] == 2
    # A job that lists numbers means numbers.
    listed = HUB.model_copy(update={"labels": ["0", "1", "2"]})
    assert load_task(listed, 0).label_names == ("0", "1", "2")


def test_rows_of_a_hub_dataset_without_a_label_are_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub(monkeypatch, [0, 1, 2, -1], NAMES)
    task = load_task(HUB, 0)
    assert task.label_names == tuple(NAMES)
    assert len(task.train) + len(task.selection) == len(task.validation[0]) == 60
    assert "20 of 80 rows of train lack a label (-1) and are left out." in task.notes
    hub(monkeypatch, [0, 1, -1, -1, -1], NAMES)
    with pytest.raises(UserError, match="60 of 100 rows of split train lack a label"):
        load_task(HUB, 0)


def test_a_hub_dataset_without_names_has_numbers_as_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, [0, 1, 2], None)
    assert load_task(HUB, 0).label_names == ("0", "1", "2")
    hub(monkeypatch, [0, 1, 2, -1], None)
    with pytest.raises(UserError, match="have the label -1"):
        load_task(HUB, 0)


def test_categories_of_pandas_are_their_values(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"t {i}" for i in range(40)], "label": ["b", "a"] * 20})
    frame["label"] = frame["label"].astype("category")
    frame.to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet").label_names == ("a", "b")

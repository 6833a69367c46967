"""The overview of data and teacher."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data import token_overview
from raycomp.data.overview import Overview, OverviewRow, describe_task, format_overview
from raycomp.data.tasks import Split, Task
from raycomp.data.token_overview import (
    TokenFigures,
    describe_augmentation,
    describe_tokens,
    measure_tokens,
)
from raycomp.data.tokens import tokenise
from tests.conftest import make_tokenizer

SETTINGS = TaskSettings(train="reviews.csv", text=["text"], label="label")
FIRST = Overview((OverviewRow("train", "10 rows"),), ("Too few.",), ("Cut.",), {"rows": 10})
SECOND = Overview((OverviewRow("outputs", "as named"),), figures={"outputs": [1, 0]})


def make_task(labels: list[list[int]], names: tuple[str, ...]) -> Task:
    splits = [
        Split(name, ["x"] * len(part), None, np.array(part))
        for name, part in zip(("train", "selection", "validation"), labels, strict=True)
    ]
    return Task(
        name="reviews.csv", kind="classification", label_names=names, metrics=("accuracy",),
        primary="accuracy", train=splits[0], selection=splits[1], validation=(splits[2],),
        notes=("A note.",),
    )  # fmt: skip


def test_parts_are_joined_in_order_and_stored_as_json() -> None:
    both = FIRST + SECOND
    assert [row.title for row in both.rows] == ["train", "outputs"]
    assert both.figures == {"rows": 10, "outputs": [1, 0]}
    assert Overview.from_json(json.loads(json.dumps(both.to_json()))) == both


@pytest.mark.parametrize("data", [{}, {"rows": 1}, {"rows": [[]], "warnings": [], "notes": []}])
def test_another_object_is_not_an_overview(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not an overview"):
        Overview.from_json(data)


def test_lines_are_aligned_and_warnings_come_before_notes() -> None:
    lines = format_overview(FIRST + SECOND)
    assert lines[0].index("10 rows") == lines[1].index("as named")
    assert lines[2:] == ["  Warning: Too few.", "  Note: Cut."]


def test_control_characters_of_a_class_name_are_not_printed() -> None:
    task = make_task([[0, 1], [0], [1]], ("\x1b[2Jbad", "good"))
    assert all(line.isprintable() for line in format_overview(describe_task(task, SETTINGS)))


def test_class_counts_of_each_split() -> None:
    overview = describe_task(make_task([[0, 1, 1, 1], [0], [1, 1]], ("bad", "good")), SETTINGS)
    texts = {row.title: row.text for row in overview.rows}
    assert texts["train"] == "4 rows: bad 1 (25%), good 3 (75%)"
    assert texts["validation"] == "2 rows: bad 0 (0%), good 2 (100%)"
    assert overview.figures["classes"]["selection"] == {"bad": 1, "good": 0}
    assert overview.notes == ("A note.",)


def test_of_many_classes_the_largest_and_smallest_are_named() -> None:
    labels = [number for number in range(9) for _ in range(number + 1)]
    overview = describe_task(make_task([labels, [0], [1]], tuple("abcdefghi")), SETTINGS)
    text = {row.title: row.text for row in overview.rows}["train"]
    assert "largest classes i 9 (20%), h 8 (18%)" in text
    assert "smallest b 2 (4%), a 1 (2%)" in text


def shown_warnings(task: Task, **changes: Any) -> str:
    return " ".join(describe_task(task, SETTINGS.model_copy(update=changes)).warnings)


def test_warnings_about_classes() -> None:
    task = make_task([[0, 1, 1], [0], [1]], ("bad", "good", "odd"))
    assert "1 of 3 classes have 0 rows in train (odd)" in shown_warnings(task)
    task = make_task([[0, 1, 2], [0], [1]], ("-1", "0", "1"))
    assert "label -1 is taken as a class" in shown_warnings(task)
    assert shown_warnings(task, labels=["-1", "0", "1"]) == ""


def test_rows_that_validation_shares_with_train_are_a_warning() -> None:
    task = make_task([[0, 1], [0], [1, 0]], ("bad", "good"))
    task = dataclasses.replace(task, shared_rows={"validation": 1})
    overview = describe_task(task, SETTINGS)
    text = {row.title: row.text for row in overview.rows}["shared rows"]
    assert text == "1 of 2 rows of validation (50.0%) are also in train, compared without case and blanks"
    assert "50% of the rows of validation" in overview.warnings[0]
    assert "task.validation" in overview.warnings[0]
    benchmark = TaskSettings(name="glue/sst2")
    assert "The dataset itself" in describe_task(task, benchmark).warnings[0]
    assert overview.figures["shared_rows"] == {"validation": 1}


def test_the_positive_class_of_f1_is_named() -> None:
    task = make_task([[1, 1, 1, 0], [0], [1]], ("fraud", "legit"))
    task = dataclasses.replace(task, metrics=("f1", "accuracy"), primary="f1")
    overview = describe_task(task, SETTINGS)
    assert {row.title: row.text for row in overview.rows}["f1"] == "positive class legit (75% of train)"
    assert "larger class" in overview.warnings[0]
    assert "task.positive" in overview.warnings[0]

    named = dataclasses.replace(task, positive=0)
    settings = SETTINGS.model_copy(update={"positive": "fraud"})
    overview = describe_task(named, settings)
    assert overview.figures["positive"] == "fraud"
    assert overview.warnings == ()

    smaller = make_task([[1, 0, 0, 0], [0], [1]], ("ham", "spam"))
    smaller = dataclasses.replace(smaller, metrics=("f1", "accuracy"), primary="f1")
    assert "task.positive can name the other one" in describe_task(smaller, SETTINGS).notes[-1]


def test_a_regression_has_figures_of_its_targets() -> None:
    task = make_task([[0, 1], [0], [1]], ())
    splits = [
        dataclasses.replace(split, labels=split.labels.astype(np.float32))
        for split in (task.train, task.selection, *task.validation)
    ]
    task = dataclasses.replace(
        task, kind="regression", train=splits[0], selection=splits[1], validation=(splits[2],)
    )
    texts = {row.title: row.text for row in describe_task(task, SETTINGS).rows}
    assert texts["train"] == "2 rows; labels 0 to 1, mean 0.5, deviation 0.5"


def make_figures(**changes: Any) -> TokenFigures:
    return TokenFigures(
        **{"median": 20, "longest": 60, "cut": 0.0, "enough": 40, "unknown": 0.0, **changes}
    )


def test_cut_texts_are_a_warning_with_the_length_to_set() -> None:
    cut = make_figures(cut=0.5, median=130, longest=300, enough=250)
    overview = describe_tokens({"train": cut, "validation": make_figures()}, 128, 512)
    assert "train 50.0%, validation 0.0%" in overview.warnings[0]
    assert "task.max_length = 256" in overview.warnings[0]
    assert "allows up to 512" in overview.warnings[0]
    assert "reads at most 128" in describe_tokens({"train": cut}, 128, 128).warnings[0]
    assert describe_tokens({"train": make_figures()}, 128, 512).warnings == ()


def test_unknown_tokens_are_a_warning() -> None:
    overview = describe_tokens({"train": make_figures(unknown=0.4)}, 128, 512)
    assert "Unknown tokens: train 40.0%" in overview.warnings[0]
    assert overview.figures["unknown"] == {"train": 0.4}


@pytest.mark.parametrize("is_paired", [False, True])
@pytest.mark.parametrize("most", [2000, 5])
def test_lengths_are_those_of_the_whole_texts(
    is_paired: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_overview, "MAX_MEASURED", most)
    texts = ["film " * number for number in range(1, 41)] + ["strange words"] * 10
    second = ["plot"] * 50 if is_paired else None
    split = Split("train", texts, second, np.zeros(50, np.int64))
    tokenizer = make_tokenizer()
    tokens = tokenise(split, lambda: tokenizer, "mark", 20, None)
    figures = measure_tokens(split, tokens, tokenizer, 20)

    extra = 4 if is_paired else 2
    assert figures.cut == pytest.approx((22 + (2 if is_paired else 0)) / 50, abs=0.1 * (most < 2000))
    if most == 2000:
        assert figures.median == pytest.approx(15.5 + extra)
        assert figures.longest == 40 + extra
    num_unknown = int((tokens.input_ids == tokenizer.unk_token_id).sum())
    num_words = int(sum(min(20, n + extra) for n in range(1, 41)) + 10 * (2 + extra))
    num_words -= 50 * (3 if is_paired else 2)
    assert figures.unknown == pytest.approx(num_unknown / num_words) == pytest.approx(20 / num_words)


@pytest.mark.parametrize(("text", "has_note"), [("film cast scene", False), ("这部电影很好看", True)])
def test_text_that_word_replacement_leaves_is_a_note(text: str, has_note: bool) -> None:
    split = Split("train", [text] * 4, None, np.zeros(4, np.int64))
    overview = describe_augmentation(split, make_tokenizer(), 3)
    assert bool(overview.notes) is has_note
    assert overview.figures["replaceable"] == (0.0 if has_note else 1.0)


def test_the_overlap_that_is_left_is_told() -> None:
    """Of two selection rows with four or more words, a training row contains one."""
    task = make_task([[0, 1], [0, 1, 0], [1, 1]], ("bad", "good"))
    texts = (
        ["a truly fine film about love", "no"],
        ["fine film about love", "a dull film about love", "no"],
        ["x", "y"],
    )
    splits = [
        dataclasses.replace(split, text_a=rows)
        for split, rows in zip((task.train, task.selection, *task.validation), texts, strict=True)
    ]
    task = dataclasses.replace(task, train=splits[0], selection=splits[1], validation=(splits[2],))
    overview = describe_task(task, SETTINGS)
    assert overview.figures["contained_rows"] == {"selection": 0.5, "validation": 0.0}
    assert any("50% of the selection rows are part of a training row" in w for w in overview.warnings)
    clean = describe_task(make_task([[0, 1], [0], [1]], ("bad", "good")), SETTINGS)
    assert not any("selection rows" in warning for warning in clean.warnings)

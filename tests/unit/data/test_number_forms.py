"""Labels that people read as numbers or dates: scores without task.kind are refused, classes are read."""

from __future__ import annotations

import datetime
from pathlib import Path

import pandas as pd
import pytest

from raycomp.config.task import TaskSettings
from raycomp.data.number_forms import find_form
from raycomp.data.overview import describe_task
from raycomp.data.tasks import load_task
from raycomp.errors import UserError
from tests.unit.data.test_files import load, text

STEPS = range(26)

# Name -> labels of a regression that are not numbers of Python, and a word of the message.
SCORES: dict[str, tuple[list[str], str]] = {
    "decimal comma": ([f"{step / 5:.1f}".replace(".", ",") for step in STEPS], "decimal comma"),
    "two decimal commas": (["0,5", "1,5"], "decimal comma"),
    "comma and point": (["0.5", "1,5", "2"], "decimal comma"),
    "negative": (["-0,5", "\u22121,5", "+2,0"], "decimal comma"),
    "percent": ([f"{step}%" for step in STEPS], "percent"),
    "percent after a blank": (["12.5 %", "3 %", "99,5 %"], "percent"),
    "fractions": ([f"{step}/5" for step in range(6)], "fraction bar"),
    "currency": (["$10.50", "$7", "-$1,200.00"], "currency"),
    "currency after the number": (["10,50 \u20ac", "7 \u20ac", "1.200,00 EUR"], "currency"),
    "thousands": (["1,000", "12,500", "950"], "thousands"),
    "whole thousands": (["1,000", "2,000", "3,000"], "thousands"),
    "three decimals": (["0,250", "0,500", "1,250"], "decimal comma or marks of thousands"),
    "thousands in Switzerland": (["1'000", "12'500.5", "950"], "thousands"),
    "dates": ([f"2023-01-{day:02}" for day in range(1, 27)], "dates"),
    "dates with times": ([f"2023-01-{day:02} 10:30:00" for day in range(1, 27)], "dates"),
    "American dates": ([f"{day}/{day % 12 + 1}/2023" for day in range(1, 27)], "dates"),
}

# Labels that may have digits and signs, but are names.
NAMES: dict[str, list[str]] = {
    "codes with a comma": ["1,1", "1,10", "2,1"],
    "codes with many digits": ["1,1", "1,10", "1,100"],
    "whole numbers with a comma": ["0,0", "1,0", "2,0"],
    "ranges": ["0-10", "11-20", "21+"],
    "several labels": ["1,2,3", "1,2", "3"],
    "times": ["10:30", "12:00"],
    "versions": ["1.2.0", "1.10.0"],
    "one word": ["15%", "20%", "more"],
    "units": ["5 stars", "4 stars"],
    "chapters": ["A/1", "B/2"],
    "signs": ["%", "$", "/"],
}


def write(path: Path, labels: list[str]) -> Path:
    """Write 156 rows with the labels in turn."""
    frame = pd.DataFrame({"text": [text(number) for number in range(156)]})
    frame["label"] = [labels[number % len(labels)] for number in range(156)]
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("name", SCORES)
def test_numbers_in_other_forms_need_the_kind_of_task(name: str, tmp_path: Path) -> None:
    labels, words = SCORES[name]
    path = write(tmp_path / "t.tsv", labels)
    with pytest.raises(UserError, match=rf"{words}.*task\.kind = .*regression.*classification") as caught:
        load(path)
    assert f"{len(labels)} different values" in str(caught.value)
    # A user who has set the kind or the classes gets them as they are written.
    assert set(load(path, kind="classification").label_names) == set(labels)
    assert load(path, labels=labels).label_names == tuple(labels)
    with pytest.raises(UserError, match="Regression needs numbers with a decimal point"):
        load(path, kind="regression")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_format_has_this_check(ending: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="decimal comma"):
        load(write(tmp_path / f"t.{ending}", SCORES["decimal comma"][0]))


@pytest.mark.parametrize("name", NAMES)
def test_names_with_digits_are_classes(name: str, tmp_path: Path) -> None:
    assert set(load(write(tmp_path / "t.tsv", NAMES[name])).label_names) == set(NAMES[name])


@pytest.mark.parametrize("kind", ["auto", "classification"])
def test_a_few_dates_are_classes_with_a_warning(kind: str, tmp_path: Path) -> None:
    days = [str(datetime.date(2020, 1, day)) for day in (1, 2)]
    path = write(tmp_path / "t.csv", days)
    settings = TaskSettings(train=str(path), text=["text"], label="label", kind=kind)
    warnings = " ".join(describe_task(load_task(settings, 0), settings).warnings)
    assert ("look like dates, such as 2020-01-01" in warnings) == (kind == "auto")


def test_a_long_label_is_compared_fast() -> None:
    assert find_form("1" * 200 + "x") is None
    assert find_form("1,000" * 40 + "x") is None

"""The overview of a task's data: what a user checks before anything is trained.

`raycomp plan` and `raycomp run` print it, and the report shows it. Other parts, such as the one about
the teacher, add their own rows: `Overview` values are joined with `+`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data.labels import MISSING_MARKS
from raycomp.data.metrics import uses_positive
from raycomp.data.number_forms import DATE, find_form
from raycomp.data.related_texts import contained_shares
from raycomp.data.tasks import Split, Task
from raycomp.errors import shown

TITLE = "Data and teacher"

MAX_LISTED_CLASSES = 6
"""Classes that one line lists; of more classes it names the largest and the smallest."""


MANY_ROWS = 10
"""Median rows of a class from which on a class with one row is suspicious."""

MAX_LINE = 1000
"""Characters of a printed line; a longer one is cut."""

SHARED_WARNING = 0.01
"""Share of a held-out split's rows that may be in train without a warning."""


@dataclass(frozen=True)
class OverviewRow:
    """One line of the overview.

    Attributes:
        title: Subject of the line, such as "train".
        text: What is known about it.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Overview:
    """Facts about the data and the teacher of a job.

    Attributes:
        rows: Lines in the order in which they are printed.
        warnings: Sentences about faults that probably make the result wrong, with what to do.
        notes: Sentences about what was changed or left out.
        figures: The same facts as JSON-able values.
    """

    rows: tuple[OverviewRow, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: Overview) -> Overview:
        return Overview(
            (*self.rows, *other.rows),
            (*self.warnings, *other.warnings),
            (*self.notes, *other.notes),
            {**self.figures, **other.figures},
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; `from_json` reads it."""
        return {
            "rows": [{"title": row.title, "text": row.text} for row in self.rows],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "figures": dict(self.figures),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Overview:
        """Return the overview of a JSON object.

        Raises:
            ValueError: The object is not an overview.
        """
        try:
            rows = tuple(OverviewRow(str(row["title"]), str(row["text"])) for row in data["rows"])
            warnings = tuple(map(str, data["warnings"]))
            notes = tuple(map(str, data["notes"]))
            return cls(rows, warnings, notes, dict(data["figures"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is not an overview ({error!r})") from None


def format_overview(overview: Overview) -> list[str]:
    """Return the lines of an overview as the command line prints them, without a title."""
    width = max((len(row.title) for row in overview.rows), default=0) + 2
    lines = [f"  {row.title:<{width}}{row.text}" for row in overview.rows]
    lines += [f"  Warning: {warning}" for warning in overview.warnings]
    lines += [f"  Note: {note}" for note in overview.notes]
    # Class names come from files, and a terminal would obey control characters in them.
    return [shown(line, MAX_LINE) for line in lines]


def describe_task(task: Task, settings: TaskSettings) -> Overview:
    """Return size and class counts of each split, rows that splits share, and the readers' notes.

    Args:
        task: Checked and divided task.
        settings: Section `task` of the job.
    """
    splits = _all_splits(task)
    rows = [OverviewRow("task", f"{task.name}: {_describe_shape(task)}")]
    rows += [OverviewRow(split.name, _describe_labels(task, split)) for split in splits]
    figures: dict[str, Any] = {"rows": {split.name: len(split) for split in splits}}
    if task.kind == "classification":
        figures["classes"] = {split.name: count_classes(task, split) for split in splits}

    overview = Overview(tuple(rows), notes=task.notes, figures=figures)
    overview += _describe_shared_rows(task, settings) + _describe_contained_rows(task)
    overview += _describe_blank_texts(task) + _describe_equal_labels(task)
    if task.kind == "classification":
        overview += _describe_classes(task, settings) + _describe_positive(task, settings)
    return overview


def _describe_shared_rows(task: Task, settings: TaskSettings) -> Overview:
    """Return how many rows of each validation split are also in train."""
    remedy = "Use other rows in task.validation."
    if settings.train is None:
        remedy = "The dataset itself has these rows in both splits."
    parts = []
    warnings = []
    for split in task.validation:
        count = task.shared_rows.get(split.name, 0)
        share = count / len(split)
        parts.append(f"{count:,} of {len(split):,} rows of {split.name} ({100 * share:.1f}%)")
        if share >= SHARED_WARNING:
            warnings.append(
                f"{100 * share:.0f}% of the rows of {split.name} are also in train, therefore its score "
                f"is too high. {remedy}"
            )
    text = f"{', '.join(parts)} are also in train, compared without case and blanks"
    figures = {"shared_rows": dict(task.shared_rows)}
    return Overview((OverviewRow("shared rows", text),), tuple(warnings), (), figures)


def _describe_contained_rows(task: Task) -> Overview:
    """Return which share of the selection and validation rows a training row contains."""
    train = split_texts(task.train)
    splits = (task.selection, *task.validation)
    values = contained_shares([split_texts(split) for split in splits], train)
    shares = {split.name: share for split, share in zip(splits, values, strict=True)}
    listed = ", ".join(f"{100 * share:.1f}% of {name}" for name, share in shares.items())
    text = f"{listed} are part of a training row (rows of four or more words)"

    warnings = []
    if shares["selection"] >= SHARED_WARNING:
        warnings.append(
            f"{100 * shares['selection']:.0f}% of the selection rows are part of a training row, "
            "therefore the run chooses models on text that they have seen. Remove repeated texts from "
            "the training rows, or lower task.selection."
        )
    figures = {"contained_rows": shares}
    return Overview((OverviewRow("contained rows", text),), tuple(warnings), (), figures)


def split_texts(split: Split) -> pd.DataFrame:
    """Return the texts of a split as columns a and b; b is empty if rows have one text."""
    second = split.text_b or [""] * len(split)
    return pd.DataFrame({"a": split.text_a, "b": second})


def _describe_classes(task: Task, settings: TaskSettings) -> Overview:
    """Return warnings about classes that train lacks, or that are probably not classes."""
    warnings = []
    counts = count_classes(task, task.train)
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        listed = ", ".join(empty[:MAX_LISTED_CLASSES])
        warnings.append(
            f"{len(empty)} of {len(counts)} classes have 0 rows in train ({listed}), therefore the model "
            "cannot learn them. Add rows, raise task.limit, or correct task.labels."
        )
    marks = [name for name in task.label_names if name in MISSING_MARKS]
    if "-1" in task.label_names and set(task.label_names) != {"-1", "1"}:
        marks.append("-1")
    if settings.labels is None and marks:
        noun = "labels" if len(marks) > 1 else "label"
        verb = "are taken as classes" if len(marks) > 1 else "is taken as a class"
        warnings.append(
            f"The {noun} {', '.join(marks)} {verb}. If such a label marks rows without a label, remove "
            "these rows. List the classes in task.labels to confirm them."
        )

    if settings.labels is None and settings.kind == "auto" and _are_dates(task.label_names):
        warnings.append(
            f"The labels look like dates, such as {task.label_names[0]}, and each of them is taken as a "
            'class. Check task.label, or set task.kind = "classification" to confirm them.'
        )

    single = _find_single_rows(task)
    if single:
        listed = shown(", ".join(single[:MAX_LISTED_CLASSES]), 300)
        warnings.append(
            f"{len(single)} of {len(counts)} classes have one row ({listed}), and the others have many. "
            "Check for misspelt labels and for rows whose columns are shifted."
        )
    return Overview(warnings=tuple(warnings))


def _are_dates(names: Sequence[str]) -> bool:
    return bool(names) and all(find_form(name) == DATE for name in names)


def _find_single_rows(task: Task) -> list[str]:
    """Return the classes with one row in all splits, where most classes have `MANY_ROWS` or more."""
    labels = np.concatenate([split.labels for split in _all_splits(task)])
    totals = np.bincount(labels, minlength=task.num_labels)
    if np.median(totals) < MANY_ROWS:
        return []
    return [name for name, total in zip(task.label_names, totals, strict=True) if total == 1]


def _all_splits(task: Task) -> tuple[Split, ...]:
    return (task.train, task.selection, *task.validation)


def _describe_equal_labels(task: Task) -> Overview:
    """Return a warning for each validation split whose labels are all equal."""
    warnings = []
    for split in task.validation:
        if len(split) > 1 and len(np.unique(split.labels)) == 1:
            label = f"{split.labels[0]:g}"
            if task.kind == "classification":
                label = shown(task.label_names[int(split.labels[0])], 60)
            warnings.append(
                f"All rows of {split.name} have the label {label}, therefore its score says little. "
                "Check task.validation."
            )
    return Overview(warnings=tuple(warnings))


def _describe_blank_texts(task: Task) -> Overview:
    """Return a note with the number of rows whose texts are blank."""
    counts = {}
    for split in _all_splits(task):
        seconds = split.text_b or [""] * len(split)
        pairs = zip(split.text_a, seconds, strict=True)
        counts[split.name] = sum(not first.strip() and not second.strip() for first, second in pairs)
    if not any(counts.values()):
        return Overview()
    listed = ", ".join(f"{count:,} rows of {name}" for name, count in counts.items() if count)
    note = f"{listed} have a blank text, whose label is all that can be learned. Remove such rows."
    return Overview(notes=(note,), figures={"blank_texts": counts})


def _describe_positive(task: Task, settings: TaskSettings) -> Overview:
    """Return which class F1 counts as positive, and a remark if the job has not named it."""
    metrics = [metric for metric in task.metrics if uses_positive(metric)]
    if task.num_labels != 2 or not metrics:
        return Overview()

    name = task.label_names[task.positive]
    share = count_classes(task, task.train)[name] / len(task.train)
    row = OverviewRow("f1", f"positive class {name} ({100 * share:.0f}% of train)")
    figures = {"positive": name}
    is_own_choice = settings.positive is not None or settings.labels is not None
    is_known_task = settings.name is not None and settings.name.startswith(("glue/", "demo/"))
    if is_own_choice or is_known_task or not uses_positive(task.primary):
        return Overview((row,), figures=figures)

    reason = "because it is the second class in sorted order"
    remark = f"{task.primary} counts {name} as the positive class, {reason}"
    if share > 0.5:
        warning = (
            f"{remark}. It is the larger class, and its F1 is high for every model. Name the class that "
            "matters in task.positive."
        )
        return Overview((row,), (warning,), (), figures)
    return Overview((row,), (), (f"{remark}. task.positive can name the other one.",), figures)


def count_classes(task: Task, split: Split) -> dict[str, int]:
    """Return the number of rows of each class of a split, in the order of the classes."""
    counts = np.bincount(split.labels, minlength=task.num_labels)
    return {name: int(count) for name, count in zip(task.label_names, counts, strict=True)}


def _describe_shape(task: Task) -> str:
    texts = "one text" if task.train.text_b is None else "two texts"
    if task.kind == "regression":
        return f"regression, {texts} per row"
    return f"{task.num_labels} classes, {texts} per row"


def _describe_labels(task: Task, split: Split) -> str:
    """Return the rows of a split and the distribution of their labels."""
    size = f"{len(split):,} rows"
    if task.kind == "regression":
        # In fp64: squares of targets can exceed the range of fp32.
        targets = split.labels.astype(np.float64)
        low, high = float(targets.min()), float(targets.max())
        mean, deviation = float(targets.mean()), float(targets.std())
        return f"{size}; labels {low:g} to {high:g}, mean {mean:.4g}, deviation {deviation:.3g}"

    counts = count_classes(task, split)
    if len(counts) <= MAX_LISTED_CLASSES:
        return f"{size}: {_list_counts(list(counts.items()), len(split))}"
    by_size = sorted(counts.items(), key=lambda item: -item[1])
    largest, smallest = _list_counts(by_size[:2], len(split)), _list_counts(by_size[-2:], len(split))
    return f"{size}; largest classes {largest}; smallest {smallest}"


def _list_counts(counts: Sequence[tuple[str, int]], total: int) -> str:
    return ", ".join(
        f"{shown(name, 60)} {count:,} ({100 * count / total:.0f}%)" for name, count in counts
    )

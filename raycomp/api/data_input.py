"""The training data of a call: a file, a name, or tables in memory, as the settings of [task]."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycomp.data.files import read_column_names
from raycomp.errors import UserError, first_line
from raycomp.storage.files import atomic_write

Data = Any
"""A file, a name, a DataFrame, a `datasets.Dataset`, or a dict of them with "train" and "validation"."""

LABEL_COLUMNS = ("label", "labels", "target", "class", "category", "stars", "rating", "score")
"""Names of label columns, in the order in which they are looked for."""

TEXT_COLUMNS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
    ("review",),
    ("content",),
    ("document",),
)
"""Names of text columns, in the order in which they are looked for."""

_FILE_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq")
_SPLITS = ("train", "validation")


def describe_data(data: Data, task: Any, directory: Path) -> Any:
    """Return the settings of [task] for some data; tables in memory are written to a directory first.

    Args:
        data: A data file; a name such as "glue/sst2", "demo/polarity" or a Hub dataset; a DataFrame; a
            `datasets.Dataset`; or a dict or `datasets.DatasetDict` with the splits train and, if there
            is one, validation.
        task: Further settings of [task], such as `text` and `label`.
        directory: Directory for tables from memory.

    Raises:
        UserError: The data are of another type, or the columns of text and label are not known.
    """
    if not isinstance(task, Mapping):
        return task  # parse_job names the mistake.

    # The source that a job file names gives way to the data of the call.
    settings = {key: value for key, value in task.items() if key not in ("name", *_SPLITS)}

    if isinstance(data, (str, Path)) and not _is_file(data):
        return {**settings, "name": str(data)}

    splits = _as_splits(data)
    columns = _find_columns(splits["train"], settings)
    settings |= columns

    # The order of the classes is the order of the model's outputs, where its labels have other names.
    names = _class_names(splits["train"], settings)
    if names is not None:
        settings.setdefault("labels", names)

    for split, table in splits.items():
        if isinstance(table, (str, Path)):
            settings[split] = str(table)
        else:
            frame = _select_columns(table, split, settings)
            settings[split] = str(save_table(frame, split, directory))
    return settings


def save_table(frame: pd.DataFrame, split: str, directory: Path) -> Path:
    """Write a table to `directory/SPLIT-HASH.parquet`, whose name is a function of its rows.

    Args:
        frame: Columns of text and label.
        split: "train" or "validation".
        directory: Parent directory, made if it is missing.

    Raises:
        UserError: A column mixes types, or the directory cannot be written.
    """
    path = directory / f"{split}-{_hash_rows(frame)}.parquet"
    if path.exists():
        return path

    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException as error:
        raise UserError(
            f"The {split} data cannot be stored ({first_line(error)}). Give each column values of one "
            "type."
        ) from None

    def write(hidden: Path) -> None:
        pq.write_table(table, hidden, compression="zstd")

    return atomic_write(path, write)


def _is_file(data: str | Path) -> bool:
    """Return whether a text names a data file; else it is the name of a task or of a Hub dataset."""
    # A Path is always a file: a name with a mistake in it would be looked for on the Hub.
    path = Path(data)
    return isinstance(data, Path) or path.suffix.lower() in _FILE_ENDINGS or path.is_file()


def _as_splits(data: Data) -> dict[str, Any]:
    """Return the splits of the data: files, DataFrames or Datasets."""
    if not isinstance(data, Mapping):
        _check_type(data, "data")
        return {"train": data}

    if "train" not in data:
        names = ", ".join(map(str, data)) or "none"
        raise UserError(f"The data lack the split 'train'; they have: {names}. Add data['train'].")

    # A DatasetDict often has a test split, whose labels raycomp must not use.
    splits = {name: data[name] for name in _SPLITS if name in data}
    for name, table in splits.items():
        _check_type(table, f"data[{name!r}]")
    return splits


def _check_type(table: Any, name: str) -> None:
    # By its methods: importing datasets takes seconds, and other inputs do not need it.
    is_dataset = hasattr(table, "to_pandas") and hasattr(table, "features")
    if isinstance(table, (str, Path, pd.DataFrame)) or is_dataset:
        return
    raise UserError(
        f"{name} is of type {type(table).__name__}. Give a file, a pandas DataFrame or a "
        "datasets.Dataset that is not streamed."
    )


def _column_names(table: Any) -> list[str]:
    if isinstance(table, (str, Path)):
        return list(read_column_names(Path(table)))
    if isinstance(table, pd.DataFrame):
        return [str(name) for name in table.columns]
    return list(table.column_names)


def _find_columns(table: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `text` and `label`: those given, else by the usual names of columns."""
    text = settings.get("text")
    label = settings.get("label")
    if isinstance(text, str):
        text = [text]
    if text and label:
        return {"text": text, "label": label}

    names = _column_names(table)
    if not label:
        label = next((name for name in LABEL_COLUMNS if name in names and name not in (text or [])), None)
    if not text:
        usual = (list(pair) for pair in TEXT_COLUMNS if set(pair) <= set(names) - {label})
        text = next(usual, None)
    if not text or not label:
        raise UserError(
            "It is not clear which columns hold text and label. Columns: "
            f'{", ".join(names[:30])}. Name them: task={{"text": ["review"], "label": "stars"}}.'
        )

    logging.getLogger("raycomp").info("Columns: text %s, label %s", ", ".join(text), label)
    return {"text": text, "label": label}


def _class_names(table: Any, settings: Mapping[str, Any]) -> list[str] | None:
    """Return the class names of a Dataset whose label column knows them, in order."""
    features = getattr(table, "features", None) or {}
    names = getattr(features.get(settings["label"]), "names", None)
    return list(names) if names else None


def _select_columns(table: Any, split: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return the columns of text and label as a DataFrame; class numbers become class names."""
    columns = [*settings["text"], settings["label"]]
    names = _column_names(table)
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(
            f"The {split} data lack the column {missing[0]!r}. Columns: {', '.join(names[:30])}. Name "
            'others with task={"text": [...], "label": "..."}.'
        )

    # Other columns are not written: they do not matter to the run, and may be private.
    if isinstance(table, pd.DataFrame):
        return table[columns].reset_index(drop=True)

    frame = table.select_columns(columns).to_pandas()
    classes = _class_names(table, settings)
    if classes is not None:
        label = settings["label"]
        _check_labelled(frame[label], split)
        frame[label] = frame[label].map(dict(enumerate(classes)))
    return frame


def _check_labelled(labels: pd.Series[Any], split: str) -> None:
    """Refuse rows without a label. Datasets write -1 in them.

    Raises:
        UserError: There are such rows.
    """
    is_missing = labels.isna() | (labels == -1)
    num_missing = int(is_missing.sum())
    if num_missing:
        row = int(is_missing.to_numpy().argmax())
        raise UserError(
            f"{num_missing:,} of {len(labels):,} rows of the {split} data lack a label (-1); the first "
            f"is row {row}. Remove them, for example with Dataset.filter."
        )


def _hash_rows(frame: pd.DataFrame) -> str:
    """Return 16 hex digits of a hash of column names and values; types matter, the index does not."""
    digest = hashlib.sha256()
    for name in frame.columns:
        values = frame[name].tolist()
        for value in (str(name), len(values), *values):
            # The length before each value keeps ("ab", "c") and ("a", "bc") apart.
            if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
                encoded = b"missing"
            else:
                encoded = f"{type(value).__name__} {value}".encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    return digest.hexdigest()[:16]

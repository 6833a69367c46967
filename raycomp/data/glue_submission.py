"""The format of GLUE's test server: one TSV file per task, with the columns index and prediction."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from raycomp.data.sources import GLUE

FILES = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "stsb": "STS-B", "qnli": "QNLI",
    "rte": "RTE", "wnli": "WNLI", "test_matched": "MNLI-m", "test_mismatched": "MNLI-mm", "ax": "AX",
}  # fmt: skip
"""Short name of a task, or of a split of MNLI -> name of its file without the suffix."""

NAMED = ("mnli", "qnli", "rte")
"""Tasks whose predictions are class names. The others have class numbers, and STS-B has scores."""

LOWEST, HIGHEST = 0.0, 5.0
"""Range of STS-B's scores."""


def file_name(task: str, split: str) -> str:
    """Return the name of the file of a task's test split.

    Example:
        >>> file_name("glue/sst2", "test"), file_name("glue/mnli", "test_mismatched")
        ('SST-2.tsv', 'MNLI-mm.tsv')
    """
    short = task.removeprefix("glue/")
    return f"{FILES.get(split) or FILES[short]}.tsv"


def format_glue(task: str, logits: np.ndarray) -> list[str]:
    """Return the prediction of each row as the server reads it.

    Args:
        task: Name of the task, such as "glue/rte".
        logits: (rows, classes), with the classes in the order of the task; (rows, 1) scores for STS-B.
    """
    short = task.removeprefix("glue/")
    labels = GLUE[short].labels
    if not labels:
        return [f"{score:.3f}" for score in np.clip(logits[:, 0], LOWEST, HIGHEST)]
    numbers = logits.argmax(1)
    return [labels[number] if short in NAMED else str(number) for number in numbers]


def write_tsv(index: Sequence[str], predictions: Sequence[str]) -> str:
    """Return the content of a file of predictions."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["index", "prediction"])
    writer.writerows(zip(index, predictions, strict=True))
    return text.getvalue()

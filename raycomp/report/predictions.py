"""Outputs of deployed models on the validation splits, as runs save them in `predictions/`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycomp.config.references import is_reference
from raycomp.data.metrics import compute
from raycomp.report.run_record import read_json_file
from raycomp.storage.files import read_array
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table

TEACHER = "teacher"  # method, variant and budget of a teacher's row
TOLERANCE = 1e-6  # largest difference between a recorded score and the score of the saved outputs


@dataclass(frozen=True)
class Predictions:
    """Outputs of one model on the validation splits of its task.

    Attributes:
        labels: Labels of each split, (rows,).
        logits: Outputs on each split, (rows, classes).
        positive: Number of the class that F1 of two classes counts as positive.
    """

    labels: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]
    positive: int = 1

    def value(self, metric: str) -> float:
        """Return the mean of a metric over the splits."""
        values = [
            compute([metric], labels, logits, positive=self.positive)[metric]
            for labels, logits in zip(self.labels, self.logits, strict=True)
        ]
        return float(np.mean(values))

    def same_examples(self, other: Predictions) -> bool:
        """Return whether two models were scored on the same examples, as far as the labels can tell."""
        return len(self.labels) == len(other.labels) and all(
            np.array_equal(own, others) for own, others in zip(self.labels, other.labels, strict=True)
        )


def load_predictions(
    run_dir: Path, method: str, budget: str, metric: str, value: float
) -> Predictions | None:
    """Load the outputs that one model of a run gave on the validation splits.

    Args:
        run_dir: The run directory.
        method: Method of the deployment, or TEACHER.
        budget: Budget of the deployment.
        metric: Metric of the recorded score.
        value: The recorded score.

    Returns:
        The outputs; None if the run did not save them, or if they do not give the recorded score.
    """
    if is_reference(metric):
        # Only a run imports the function of a user's own metric. A report runs no code from a job file.
        return None
    predictions = _read_predictions(run_dir, method, budget)
    if predictions is None or abs(predictions.value(metric) - value) >= TOLERANCE:
        return None
    return predictions


@functools.lru_cache(maxsize=256)
def _read_predictions(run_dir: Path, method: str, budget: str) -> Predictions | None:
    """Read the outputs of a deployment, of a fine-tuned network, or of the teacher."""
    model = _model_name(run_dir, method, budget)
    layout = RunLayout(run_dir)
    labels, logits = [], []
    for path in sorted(layout.predictions_dir.glob(f"{model}.*.npy")):
        split = path.name.removeprefix(f"{model}.").removesuffix(".npy")
        # Intervals are for validation scores only.
        if split == "selection":
            continue

        split_labels = read_array(layout.predictions("labels", split))
        split_logits = read_array(layout.predictions(model, split))
        # A file can be missing or incomplete while the run writes.
        if split_labels is None or split_logits is None or len(split_labels) != len(split_logits):
            return None
        labels.append(split_labels)
        logits.append(split_logits)

    if not labels:
        return None
    return Predictions(tuple(labels), tuple(logits), read_positive(run_dir))


def read_positive(run_dir: Path) -> int:
    """Return the number of the class that F1 counts as positive in a run; 1 if it is not recorded."""
    return 0 if read_json_file(RunLayout(run_dir).facts).get("positive", 1) == 0 else 1


def _model_name(run_dir: Path, method: str, budget: str) -> str:
    """Return the name of a model in the directory `predictions`."""
    if method == TEACHER:
        return TEACHER
    if method == "adabert" and budget == "cnn":
        # A study calls the only CNN of a run "cnn"; the run calls it after its settings.
        deployments = read_table(run_dir, "deployments")
        budget = deployments[deployments["method"] == "adabert"]["budget"].iloc[0]
    return f"{method}-{budget}"

"""The warning of a deployed model whose scores are far below the teacher's."""

from __future__ import annotations

from dataclasses import replace

from raycomp.methods.context import RunContext
from raycomp.report.predictions import Predictions
from raycomp.report.shortfall import find_min_retention, find_shortfall
from raycomp.storage.files import read_array
from raycomp.storage.rows import DeploymentRow


def add_score_warning(context: RunContext, row: DeploymentRow, model: str) -> DeploymentRow:
    """Return the row of a model that was just scored, with a warning if it is far below the teacher.

    Args:
        context: The run's context.
        row: The row, with its scores.
        model: Name of the model's predictions.
    """
    min_retention = find_min_retention(context.job.model_dump(mode="json"), row.budget)
    predictions = _read_predictions(context, model)
    return replace(row, warning=find_shortfall(row.metric, predictions, row.retention, min_retention))


def _read_predictions(context: RunContext, model: str) -> Predictions | None:
    """Return the outputs of a model that was just scored on the validation splits."""
    splits = context.validation_names()
    labels = [read_array(context.layout.predictions("labels", split)) for split in splits]
    logits = [read_array(context.layout.predictions(model, split)) for split in splits]
    if any(array is None for array in (*labels, *logits)):
        return None
    return Predictions(
        tuple(array for array in labels if array is not None),
        tuple(array for array in logits if array is not None),
        context.facts.positive,
    )

"""A given fine-tuned model as the teacher: does it know the task, and which output is which class?

It is scored on training rows before anything is trained. A model of another task, or one whose outputs
are in another order than the classes, is refused: every compressed model would copy its faults.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from raycomp.data.agreement import Agreement, Correlation, balanced_rows, measure_agreement
from raycomp.data.tasks import Split
from raycomp.data.tokens import tokenise
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.errors import UserError, shown
from raycomp.methods.context import RunContext
from raycomp.training.evaluation import predict_logits

if TYPE_CHECKING:
    from raycomp.encoder.pretrained import Checkpoint

FIRST_ROWS = 128
"""Rows that a given teacher is scored on at first."""

MORE_ROWS = 512
"""Rows that it is scored on where the first ones leave a doubt; more for many classes."""

MAX_ROWS = 2048
"""Most rows that it is scored on: scoring must stay short next to the run."""

MIN_CLASS_ROWS = 4
"""Rows of each class that show an output of another class. Each half of them must have some."""

CLEAR_RECALL = 0.9
"""Mean recall of the classes from which only a few outputs can be in another order."""

CLEAR_CLASS_ROWS = 16
"""Rows of each class that show another order at a lower recall too."""

MAX_SHOWN_CLASSES = 100
"""Most classes that a message lists in the order of the outputs."""


@dataclass(frozen=True)
class GivenTeacher:
    """What is known about a given fine-tuned model before a run.

    Attributes:
        model: Name of the model.
        classes: Classes of the task; empty for regression.
        outputs: Output of the model that is each class.
        output_names: Name of each output in the model's configuration.
        has_named_outputs: Whether the names decided which output is which class.
        agreement: Its predictions against the labels; None for regression.
        correlation: Its correlations with the targets; None for classification.
        predicted_mean: Mean of its predictions, in the user's units; regression only.
        predicted_deviation: Their deviation.
        rows: Number of training rows that it was scored on.
    """

    model: str
    classes: tuple[str, ...]
    outputs: tuple[int, ...]
    output_names: tuple[str, ...]
    has_named_outputs: bool
    agreement: Agreement | None
    correlation: Correlation | None
    predicted_mean: float
    predicted_deviation: float
    rows: int


@functools.lru_cache(maxsize=1)
def score_given_teacher(context: RunContext) -> GivenTeacher | None:
    """Score the given model on training rows; None where the run trains its teacher or has it already.

    Args:
        context: Context of the run. Nothing is trained or written.

    Raises:
        UserError: The checkpoint, its tokenizer or its classifier does not fit the task.
    """
    # A run that has its teacher has been checked, or began with a version that did not check.
    is_trained = context.job.teacher.mode == "train" or not context.fine_tuned
    if is_trained or context.layout.teacher_network.exists():
        return None
    checkpoint = context.load()
    return _score_regression(context, checkpoint) if context.regression else _score(context, checkpoint)


def check_given_teacher(teacher: GivenTeacher, mode: str) -> None:
    """Refuse a given teacher whose outputs are in another order, or that does not know the task.

    Args:
        teacher: Result of `score_given_teacher`.
        mode: `teacher.mode` of the job. With "as-is" a teacher near chance is used: the user insists.

    Raises:
        UserError: Another order of the outputs is clearly better, or the teacher is near chance, or its
            predictions are not related to the targets.
    """
    if teacher.correlation is not None and teacher.correlation.is_unrelated and mode != "as-is":
        raise UserError(_explain_correlation(teacher, teacher.correlation))
    agreement = teacher.agreement
    if agreement is None:
        return
    # A wrong order also looks like chance or worse, but it has a remedy of its own.
    if agreement.better_order is not None:
        raise UserError(_explain_order(teacher, agreement, agreement.better_order))
    if agreement.is_near_chance and mode != "as-is":
        raise UserError(
            f"Model {teacher.model} has a classifier, but it does not know this task: on "
            f"{agreement.rows} training rows that are balanced over the classes, its accuracy is "
            f"{agreement.balanced:.2f} (98% interval {max(0, agreement.balanced_low):.2f} to "
            f"{agreement.balanced_high:.2f}), and chance gives {agreement.chance:.2f}. Assumed outputs: "
            f"{describe_outputs(teacher)}. Check model.name and the label column. To train a new "
            "classifier set teacher.mode = 'train'; to use this one set teacher.mode = 'as-is'."
        )


def describe_outputs(teacher: GivenTeacher) -> str:
    """Return which output of the model is assumed to be which class."""
    parts = []
    for name, output in zip(teacher.classes, teacher.outputs, strict=True):
        label = teacher.output_names[output]
        parts.append(f"{shown(name, 40)} = output {output} ({shown(label, 40)})")
    if len(parts) > 10:
        return f"{', '.join(parts[:10])}, and {len(parts) - 10} more"
    return ", ".join(parts)


def _score(context: RunContext, checkpoint: Checkpoint) -> GivenTeacher:
    """Score a classifier, on more rows where the first ones leave a doubt."""
    labels = context.task.train.labels
    classes = context.task.num_labels
    shares = np.bincount(labels, minlength=classes) / len(labels)

    most = min(max(MORE_ROWS, MIN_CLASS_ROWS * classes), MAX_ROWS)
    rows = balanced_rows(labels, most, context.job.run.seed)
    predicted = _predict(context, checkpoint, rows[:FIRST_ROWS]).argmax(1)
    agreement = measure_agreement(labels[rows[:FIRST_ROWS]], predicted, shares)

    if len(rows) > FIRST_ROWS and _leaves_doubt(agreement, classes):
        more = _predict(context, checkpoint, rows[FIRST_ROWS:]).argmax(1)
        agreement = measure_agreement(labels[rows], np.concatenate([predicted, more]), shares)

    return _describe(context, checkpoint, agreement=agreement, rows=agreement.rows)


def _leaves_doubt(agreement: Agreement, classes: int) -> bool:
    """Return whether more rows could show chance, or another order of some outputs.

    Most teachers are clear after the first rows; only a doubt is worth the time of the others. A teacher
    with a part of its outputs in another order is above chance, also far above.
    """
    class_rows = agreement.rows / classes
    is_few = class_rows < MIN_CLASS_ROWS
    is_weak = agreement.balanced < CLEAR_RECALL and class_rows < CLEAR_CLASS_ROWS
    return is_few or is_weak or not agreement.is_above_chance


def _score_regression(context: RunContext, checkpoint: Checkpoint) -> GivenTeacher:
    """Compare a regression model's predictions with the targets, in the user's units."""
    train = context.task.train
    # Targets are not classes that could be balanced.
    rows = np.random.default_rng(context.job.run.seed).permutation(len(train))[:MORE_ROWS]
    outputs = context.target_scaling.restore(_predict(context, checkpoint, rows[:FIRST_ROWS]))
    correlation = _correlate(train.labels[rows[:FIRST_ROWS]], outputs)

    if len(rows) > FIRST_ROWS and not correlation.is_clear:
        more = context.target_scaling.restore(_predict(context, checkpoint, rows[FIRST_ROWS:]))
        outputs = np.concatenate([outputs, more])
        correlation = _correlate(train.labels[rows], outputs)

    return _describe(
        context,
        checkpoint,
        correlation=correlation,
        predicted_mean=float(outputs.mean()),
        predicted_deviation=float(outputs.std()),
        rows=correlation.rows,
    )


def _correlate(targets: np.ndarray, outputs: np.ndarray) -> Correlation:
    """Return the correlations of predictions (rows, 1) with targets (rows,)."""
    from raycomp.data.metrics import compute

    scores = compute(["pearson", "spearman"], targets, outputs)
    return Correlation(len(targets), scores["pearson"], scores["spearman"])


def _describe(
    context: RunContext,
    checkpoint: Checkpoint,
    *,
    rows: int,
    agreement: Agreement | None = None,
    correlation: Correlation | None = None,
    predicted_mean: float = 0.0,
    predicted_deviation: float = 0.0,
) -> GivenTeacher:
    return GivenTeacher(
        model=context.job.model.name,
        classes=context.task.label_names,
        outputs=checkpoint.outputs,
        output_names=checkpoint.output_names,
        has_named_outputs=checkpoint.has_named_outputs,
        agreement=agreement,
        correlation=correlation,
        predicted_mean=predicted_mean,
        predicted_deviation=predicted_deviation,
        rows=rows,
    )


def _predict(context: RunContext, checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray:
    """Return the model's logits on training rows, (rows, outputs), in fp32 on the CPU."""
    train = context.task.train
    text_b = None if train.text_b is None else [train.text_b[row] for row in rows]
    split = Split("train", [train.text_a[row] for row in rows], text_b, train.labels[rows])

    # The run's tokens may not be written yet, and nothing may be written here.
    limit = min(context.job.task.max_length, checkpoint.network.config.max_positions)
    tokens = tokenise(split, lambda: checkpoint.tokenizer, "", limit, None)
    network = ElasticEncoder(checkpoint.network).eval()
    return predict_logits(
        lambda batch: network(batch).logits,
        tokens,
        pad_id=context.pad_id,
        max_tokens=context.job.search.max_tokens,
        precision="fp32",
        device=torch.device("cpu"),
    )


def _explain_correlation(teacher: GivenTeacher, correlation: Correlation) -> str:
    """Return the message about predictions that are not related to the targets."""
    low, high = correlation.interval()
    reason = "it does not know this task"
    remedy = "Check model.name and the label column."
    if high < 0:
        reason = "its predictions fall where the labels rise"
        remedy = "Check model.name, and whether a larger label means the same as a larger prediction."

    return (
        f"Model {teacher.model} is a regression model, but {reason}: on {correlation.rows} training "
        f"rows, its Pearson correlation is {correlation.pearson:.2f} and its Spearman correlation "
        f"{correlation.spearman:.2f} (98% interval of the larger one {low:.2f} to {high:.2f}). {remedy} "
        "To train a new regression model set teacher.mode = 'train'; to use this one set "
        "teacher.mode = 'as-is'."
    )


def _explain_order(teacher: GivenTeacher, agreement: Agreement, order: Sequence[int]) -> str:
    """Return the message about outputs in another order than the classes."""
    # `order` has the outputs in the order of the classes; `outputs` are numbers of the model.
    fitting = {teacher.outputs[output]: name for name, output in zip(teacher.classes, order, strict=True)}
    names = [fitting[output] for output in range(len(fitting))]
    quoted = [shown(json.dumps(name, ensure_ascii=False)) for name in names[:MAX_SHOWN_CLASSES]]
    listed = ", ".join(quoted)
    if len(names) > MAX_SHOWN_CLASSES:
        listed += f", and {len(names) - MAX_SHOWN_CLASSES} more in the order of the model's outputs"

    remedy = f"Set task.labels = [{listed}]: the classes in the order of the model's outputs."
    if teacher.has_named_outputs:
        remedy = (
            "The id2label in the model's config.json names the outputs wrongly. By the labels of the "
            f"rows, the outputs are [{listed}] in this order. Correct id2label and label2id."
        )
    return (
        f"The outputs of model {teacher.model} are in another order than assumed "
        f"({describe_outputs(teacher)}): its accuracy on {agreement.rows} training rows is "
        f"{agreement.balanced:.2f}, and {agreement.better_accuracy:.2f} in the order that fits. {remedy}"
    )

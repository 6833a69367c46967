"""The teacher's part of a job's overview: its score against chance, and which output is which class."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raycomp.arithmetic import ceil_div
from raycomp.data.agreement import Agreement, Correlation
from raycomp.data.overview import Overview, OverviewRow
from raycomp.methods.context import RunContext
from raycomp.methods.given_teacher import GivenTeacher, describe_outputs, score_given_teacher
from raycomp.methods.teacher_length import FEW_STEPS, count_needed_steps, count_teacher_steps

LOW_CORRELATION = 0.5
"""A given regression model with a lower correlation gets a warning."""

MAX_UNIT_RATIO = 3.0
"""Largest ratio of deviations of predictions and targets that have the same units."""


def describe_teacher(context: RunContext) -> Overview:
    """Return what is known about the teacher before anything is trained.

    Args:
        context: Context of the run.
    """
    teacher = score_given_teacher(context)
    if teacher is None:
        overview = _describe_training(context)
    elif teacher.correlation is not None:
        overview = _describe_regression(context, teacher, teacher.correlation)
    else:
        assert teacher.agreement is not None  # nosec B101
        overview = _describe_classifier(context, teacher, teacher.agreement)
    notes = (context.tokenizer_note, context.head_note)
    return overview + Overview(notes=tuple(note for note in notes if note))


def _describe_training(context: RunContext) -> Overview:
    """Describe a teacher that is fine-tuned by the run, or that the run has already."""
    settings = context.job.teacher
    name = context.job.model.name
    if context.fine_tuned and settings.mode != "train":
        return Overview((OverviewRow("teacher", f"{name} as it is, with its own classifier"),))

    reason = "it lacks a classifier"
    if settings.mode == "train":
        reason = "teacher.mode is 'train'"
    rows, outputs = len(context.task.train), context.task.num_labels
    steps_per_epoch = ceil_div(rows, settings.batch_size)
    steps = count_teacher_steps(settings, rows, outputs)
    text = (
        f"{name} is fine-tuned with a new classifier for {steps / steps_per_epoch:.3g} epochs ({steps:,} "
        f"steps), because {reason}"
    )
    figures = {"is_given": False, "steps": steps, "epochs": steps / steps_per_epoch}
    return Overview(
        (OverviewRow("teacher", text),),
        _warn_of_few_steps(context, steps, steps_per_epoch),
        figures={"teacher": figures},
    )


def _warn_of_few_steps(context: RunContext, steps: int, steps_per_epoch: int) -> tuple[str, ...]:
    """Return a warning if the teacher's training is much shorter than such a task needs."""
    outputs = context.task.num_labels
    needed = count_needed_steps(steps_per_epoch, outputs)
    if steps >= FEW_STEPS * needed:
        return ()
    epochs = context.job.teacher.epochs
    classes = f"{outputs} classes" if outputs > 1 else "a regression"
    return (
        f"teacher.epochs = {epochs:g} gives {steps:,} steps, which are probably too few: the rule for "
        f"{classes} and {len(context.task.train):,} rows gives {needed:,}. A teacher that has not "
        "learned its task limits every compressed network. Leave teacher.epochs out, or set it to "
        f"{ceil_div(needed, steps_per_epoch)}.",
    )


def _describe_classifier(context: RunContext, teacher: GivenTeacher, agreement: Agreement) -> Overview:
    """Describe the score of a given classifier, and which output is which class."""
    # A model that has learned nothing reaches the share of the largest class.
    score = (
        f"{teacher.model} as it is: accuracy {agreement.accuracy:.3f} on {agreement.rows} training rows "
        f"(95% interval {agreement.low:.3f} to {agreement.high:.3f}), largest class "
        f"{agreement.majority:.3f}"
    )
    rule = "by its id2label" if teacher.has_named_outputs else "by their order"
    if not teacher.has_named_outputs and context.job.task.labels is not None:
        rule = "by task.labels"
    rows = (
        OverviewRow("teacher", score),
        OverviewRow("outputs", f"{describe_outputs(teacher)}; assigned {rule}"),
    )

    warnings: tuple[str, ...] = ()
    if not agreement.is_above_chance:
        warnings = (
            f"The {agreement.rows} training rows do not show that {teacher.model} is better than chance "
            f"(mean recall {agreement.balanced:.2f}, chance {agreement.chance:.2f}). Check model.name, "
            "the label column and the outputs above, or set teacher.mode = 'train'.",
        )
    # Scripts read the numbers; people read the lines.
    assignment = dict(zip(teacher.classes, teacher.outputs, strict=True))
    figures: dict[str, Any] = {"is_given": True, "outputs": assignment, **asdict(agreement)}
    return Overview(rows, warnings, figures={"teacher": figures})


def _describe_regression(
    context: RunContext, teacher: GivenTeacher, correlation: Correlation
) -> Overview:
    """Describe the correlation of a given regression model with the targets, and its units."""
    scaling = context.target_scaling
    text = (
        f"{teacher.model} as it is: Pearson correlation {correlation.pearson:.3f} on {teacher.rows} "
        f"training rows; predictions have mean {teacher.predicted_mean:.4g} and deviation "
        f"{teacher.predicted_deviation:.3g}, labels {scaling.mean:.4g} and {scaling.deviation:.3g}"
    )
    # Similarity models often say 0 to 1 where people labelled 0 to 5.
    shift = abs(teacher.predicted_mean - scaling.mean) / scaling.deviation
    ratio = teacher.predicted_deviation / scaling.deviation
    warnings: tuple[str, ...] = ()
    if shift > 1 or not 1 / MAX_UNIT_RATIO < ratio < MAX_UNIT_RATIO:
        warnings = (
            f"The predictions of {teacher.model} and the labels seem to have different units (see "
            "teacher). Give labels in the units of the model, or set teacher.mode = 'train'.",
        )

    if correlation.best < LOW_CORRELATION:
        warnings += (
            f"The correlation of the predictions of {teacher.model} with the labels is low (Pearson "
            f"{correlation.pearson:.2f}, Spearman {correlation.spearman:.2f} on {teacher.rows} training "
            "rows). Check model.name and the label column, or set teacher.mode = 'train'.",
        )

    figures = {
        "is_given": True,
        "pearson": correlation.pearson,
        "spearman": correlation.spearman,
        "rows": teacher.rows,
        "predicted_mean": teacher.predicted_mean,
        "predicted_deviation": teacher.predicted_deviation,
    }
    return Overview((OverviewRow("teacher", text),), warnings, figures={"teacher": figures})

"""How the teacher is fine-tuned: `teacher.epochs`, and the rules behind "auto".

A new classifier begins with small random weights, and needs larger ones the more classes it tells apart.
With the learning rate of the encoder it reaches them after thousands of steps. The number of steps and
the learning rate of the classifier therefore grow with the number of classes
(docs/decisions/0026-teacher-length-depends-on-the-data.md).
"""

from __future__ import annotations

from raycomp.arithmetic import ceil_div
from raycomp.config.general import TeacherSettings

LEAST_EPOCHS = 3
"""Passes over the rows of a task with few classes."""

MOST_EPOCHS = 20
"""Passes over few rows of many classes."""

STEPS_PER_CLASS = 8
"""Steps that a task needs for each class."""

FEW_STEPS = 0.5
"""Share of the needed steps below which a number of the user's is probably too small."""


CLASSES_PER_FACTOR = 7.5
"""Classes for each unit of the factor of the classifier's learning rate."""

LARGEST_FACTOR = 20.0
"""Largest ratio of the classifier's learning rate to that of the encoder."""


def find_classifier_factor(settings: TeacherSettings, outputs: int) -> float:
    """Return the learning rate of the new classifier, divided by that of the encoder.

    Args:
        settings: Section `teacher` of the job.
        outputs: Outputs of the classifier.

    Example:
        >>> find_classifier_factor(TeacherSettings(), outputs=150)
        20.0
        >>> find_classifier_factor(TeacherSettings(epochs=3), outputs=150)
        1.0
    """
    if settings.classifier_learning_rate is not None:
        return settings.classifier_learning_rate / settings.learning_rate
    if not isinstance(settings.epochs, str):
        return 1.0
    return min(max(1.0, outputs / CLASSES_PER_FACTOR), LARGEST_FACTOR)


def count_teacher_steps(settings: TeacherSettings, rows: int, outputs: int) -> int:
    """Return the steps of the teacher's fine-tuning, at least 1.

    Args:
        settings: Section `teacher` of the job.
        rows: Rows of the training split.
        outputs: Outputs of the classifier: the number of classes, or 1 for regression.

    Example:
        >>> count_teacher_steps(TeacherSettings(epochs=2), rows=320, outputs=150)
        20
    """
    steps_per_epoch = ceil_div(rows, settings.batch_size)
    if isinstance(settings.epochs, str):
        return count_automatic_steps(steps_per_epoch, outputs)
    return max(1, round(settings.epochs * steps_per_epoch))


def count_automatic_steps(steps_per_epoch: int, outputs: int) -> int:
    """Return the steps of `teacher.epochs = "auto"`.

    Args:
        steps_per_epoch: Steps of one pass over the training split.
        outputs: Outputs of the classifier.

    Example:
        >>> count_automatic_steps(2000, outputs=2)
        6000
    """
    return max(count_needed_steps(steps_per_epoch, outputs), LEAST_EPOCHS * steps_per_epoch)


def count_needed_steps(steps_per_epoch: int, outputs: int) -> int:
    """Return the steps that a task needs, where a few passes over many rows do not give more.

    Args:
        steps_per_epoch: Steps of one pass over the training split.
        outputs: Outputs of the classifier.
    """
    return min(STEPS_PER_CLASS * outputs, MOST_EPOCHS * steps_per_epoch)

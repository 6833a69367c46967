"""Whether the classifier of a fine-tuned checkpoint fits a task.

A classifier that does not fit is refused: to train another one in its place would compress a model that
the user did not give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycomp.encoder.label_matching import has_generic_names, list_names
from raycomp.errors import UserError

RETRAIN = "teacher.mode = 'train' to fine-tune the encoder with a new classifier"
"""What a user sets to use the encoder of a checkpoint only."""


@dataclass(frozen=True)
class ClassifierHead:
    """The classifier of a checkpoint.

    Attributes:
        num_outputs: Rows of its last matrix.
        output_names: Output -> name, a configuration's `id2label`.
        problem_type: What the outputs mean, as the configuration has it; None if it does not say.
    """

    num_outputs: int
    output_names: Mapping[int, str]
    problem_type: str | None


def read_head(config: Any, num_outputs: int, label2id: Any = None) -> ClassifierHead:
    """Return the classifier of a checkpoint from its transformers configuration.

    Args:
        config: The configuration.
        num_outputs: Rows of the classifier's last matrix.
        label2id: Name -> output, as config.json has it; anything else where it is missing or damaged.
    """
    problem_type = getattr(config, "problem_type", None)
    names = dict(config.id2label or {})
    if has_generic_names(list(names.values())) and isinstance(label2id, Mapping):
        # Some tools write the names into label2id only.
        outputs = list(label2id.values())
        if all(type(output) is int for output in outputs) and sorted(outputs) == list(range(num_outputs)):
            names = {output: str(label) for label, output in label2id.items()}
    return ClassifierHead(num_outputs, names, None if problem_type is None else str(problem_type))


def check_head(head: ClassifierHead, num_labels: int, classes: Sequence[str], name: str) -> None:
    """Refuse a classifier that does not fit the task.

    Args:
        head: The classifier.
        num_labels: Outputs of the task; 1 for regression.
        classes: Names of the task's classes; empty for regression.
        name: Name of the model, used in messages.

    Raises:
        UserError: Number or meaning of the outputs differ from the task's.
    """
    problem = _find_problem(head, num_labels, classes)
    if problem:
        raise UserError(f"Model {name} is {problem}")


def _find_problem(head: ClassifierHead, num_labels: int, classes: Sequence[str]) -> str:
    """Return how a classifier differs from the task, as the end of a message, or an empty text."""
    # Sigmoid outputs do not sum to 1: the distillation's softmax would change their meaning.
    if head.problem_type == "multi_label_classification":
        return (
            "a multi-label classifier (problem_type in its config.json): each output is a separate yes "
            "or no. The task has one label per row. Correct problem_type if it is wrong, or set "
            f"{RETRAIN}."
        )

    if num_labels == 1:
        return _find_regression_problem(head)

    # A yes-or-no model with one sigmoid output also looks like this.
    if head.num_outputs == 1:
        return (
            "a model with one output (regression), but the task is classification with "
            f'{num_labels} classes{_in_brackets(classes)}. Set task.kind = "regression" if the labels '
            f"are numbers, or set {RETRAIN}."
        )

    # Outputs of a regression are numbers, not scores of classes.
    if head.problem_type == "regression":
        return (
            "a regression model (problem_type in its config.json), but the task is classification with "
            f"{num_labels} classes{_in_brackets(classes)}. Correct problem_type if it is wrong, or set "
            f"{RETRAIN}."
        )

    if head.num_outputs != num_labels:
        names = [str(head.output_names.get(i, f"LABEL_{i}")) for i in range(head.num_outputs)]
        advice = f"Remove the rows of the other classes, or set {RETRAIN}."
        if head.num_outputs > num_labels:
            advice = (
                "List all classes of the model in task.labels, in the order of its outputs, or set "
                f"{RETRAIN}."
            )
        return (
            f"a classifier with {head.num_outputs} outputs{_in_brackets(names)}, but the task has "
            f"{num_labels} classes{_in_brackets(classes)}. {advice}"
        )
    return ""


def _find_regression_problem(head: ClassifierHead) -> str:
    if head.num_outputs > 1:
        names = [str(head.output_names.get(i, f"LABEL_{i}")) for i in range(head.num_outputs)]
        return (
            f"a classifier with {head.num_outputs} outputs{_in_brackets(names)}, but the task is "
            f'regression. Set task.kind = "classification" if the labels are classes, or set {RETRAIN}.'
        )
    return ""


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({list_names(names)})" if names else ""

"""Rows that a given teacher is scored on: enough for each class, and few where nothing is in doubt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raycomp.data.target_scaling import TargetScaling
from raycomp.errors import UserError
from raycomp.methods import given_teacher
from raycomp.methods.given_teacher import GivenTeacher, check_given_teacher, score_given_teacher
from raycomp.methods.teacher_overview import describe_teacher


class Context:
    """What the score of a teacher reads of a run; the predictions are simulated."""

    regression = False
    fine_tuned = True

    def __init__(self, classes: int) -> None:
        names = tuple(f"class {number}" for number in range(classes))
        train = SimpleNamespace(labels=np.arange(300 + 30 * classes) % classes)
        self.task = SimpleNamespace(train=train, num_labels=classes, label_names=names)
        self.job = SimpleNamespace(
            teacher=SimpleNamespace(mode="auto"),
            run=SimpleNamespace(seed=3),
            model=SimpleNamespace(name="model"),
        )
        self.layout = SimpleNamespace(teacher_network=SimpleNamespace(exists=lambda: False))

    def load(self) -> Any:
        classes = range(self.task.num_labels)
        names = tuple(f"LABEL_{number}" for number in classes)
        return SimpleNamespace(outputs=tuple(classes), output_names=names, has_named_outputs=False)


def score(
    monkeypatch: pytest.MonkeyPatch, classes: int, recall: float, moved: int
) -> tuple[GivenTeacher, np.ndarray]:
    """Score a teacher whose first `moved` outputs are rotated; return it and the order of its outputs."""
    order = np.arange(classes)
    order[:moved] = np.roll(order[:moved], 1)
    rng = np.random.default_rng(0)

    def predict(context: Any, checkpoint: Any, rows: np.ndarray) -> np.ndarray:
        labels = context.task.train.labels[rows]
        wrong = rng.integers(0, classes, len(rows))
        return np.eye(classes)[order[np.where(rng.random(len(rows)) < recall, labels, wrong)]]

    monkeypatch.setattr(given_teacher, "_predict", predict)
    context: Any = Context(classes)
    teacher = score_given_teacher(context)
    assert teacher is not None
    return teacher, order


@pytest.mark.parametrize(
    ("classes", "moved"), [(4, 2), (10, 2), (20, 2), (60, 4), (77, 8), (128, 32), (150, 37), (600, 100)]
)
def test_a_part_of_the_outputs_in_another_order_is_found(
    classes: int, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is far above chance, so the first rows alone leave no doubt about chance."""
    teacher, order = score(monkeypatch, classes, 0.97, moved)
    assert teacher.agreement is not None
    assert teacher.agreement.balanced_low > teacher.agreement.chance
    assert teacher.agreement.better_order == tuple(order)
    with pytest.raises(UserError, match="in another order than assumed"):
        check_given_teacher(teacher, "auto")


@pytest.mark.parametrize(
    ("classes", "recall", "rows"),
    [(2, 0.8, 128), (3, 0.95, 128), (20, 1.0, 128), (20, 0.8, 512), (77, 1.0, 512), (600, 1.0, 2048)],
)
def test_a_good_teacher_is_scored_on_as_many_rows_as_its_classes_need(
    classes: int, recall: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, _ = score(monkeypatch, classes, recall, 0)
    assert teacher.rows == rows
    check_given_teacher(teacher, "auto")


class RegressionContext(Context):
    """A regression on prices, a few of them very high."""

    regression = True
    tokenizer_note = ""
    head_note = ""

    def __init__(self, rows: int) -> None:
        super().__init__(2)
        targets = 100_000 * np.exp(np.random.default_rng(1).standard_normal(rows))
        self.task.train = Targets(targets.astype(np.float32))
        self.target_scaling = TargetScaling.of(self.task.train.labels)


class Targets:
    """A split with targets only."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)


# Prediction of a target with an independent number of deviation 1, in deviations of the targets.
REGRESSORS: dict[str, Any] = {
    "unrelated": lambda target, noise: noise,
    "constant": lambda target, noise: 0 * noise,
    "flipped": lambda target, noise: -target,
    "partly flipped": lambda target, noise: noise - 0.3 * target,
    "very weak": lambda target, noise: 0.25 * target + noise,
    "weak": lambda target, noise: 0.35 * target + noise,
    "logarithm": lambda target, noise: np.log(target - target.min() + 1e-3),
    "exact": lambda target, noise: target,
}


def score_regressor(
    monkeypatch: pytest.MonkeyPatch, name: str, rows: int, mode: str = "auto"
) -> tuple[Any, GivenTeacher]:
    """Score a simulated regression model; return its context too."""
    context: Any = RegressionContext(rows)
    context.job.teacher.mode = mode

    def predict(context: Any, checkpoint: Any, rows: np.ndarray) -> np.ndarray:
        targets = context.target_scaling.standardise(context.task.train.labels)
        noise = np.random.default_rng(7).standard_normal(len(targets))
        return REGRESSORS[name](targets, noise)[rows][:, None]

    monkeypatch.setattr(given_teacher, "_predict", predict)
    teacher = score_given_teacher(context)
    assert teacher is not None
    return context, teacher


@pytest.mark.parametrize("name", ["unrelated", "constant", "flipped", "partly flipped"])
def test_a_regression_model_that_does_not_know_the_task_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, teacher = score_regressor(monkeypatch, name, 600)
    words = "fall where the labels rise" if "flipped" in name else "does not know this task"
    with pytest.raises(UserError, match=rf"{words}.*teacher\.mode = 'as-is'"):
        check_given_teacher(teacher, "auto")
    check_given_teacher(teacher, "as-is")


@pytest.mark.parametrize(
    ("name", "rows"), [("weak", 128), ("very weak", 512), ("logarithm", 128), ("exact", 128)]
)
def test_a_regression_model_that_knows_something_is_used(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose units are no straight line of the targets; a weak one gets a warning."""
    context, teacher = score_regressor(monkeypatch, name, 600)
    assert teacher.rows == rows
    check_given_teacher(teacher, "auto")
    warnings = " ".join(describe_teacher(context).warnings)
    assert ("labels is low" in warnings) == ("weak" in name)


@pytest.mark.parametrize("name", ["unrelated", "constant"])
def test_few_rows_never_refuse_a_regression_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context, teacher = score_regressor(monkeypatch, name, 40)
    check_given_teacher(teacher, "auto")
    assert "labels is low" in " ".join(describe_teacher(context).warnings)

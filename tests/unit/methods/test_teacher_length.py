"""The length of the teacher's fine-tuning: explicit, or from the number of classes and rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raycomp.config.general import TeacherSettings
from raycomp.config.loader import parse_job, parse_stored
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.teacher import TeacherTask
from raycomp.methods.teacher_length import (
    LARGEST_FACTOR,
    LEAST_EPOCHS,
    MOST_EPOCHS,
    count_automatic_steps,
    count_teacher_steps,
    find_classifier_factor,
)
from raycomp.methods.teacher_overview import describe_teacher
from raycomp.runtime.pipeline.plan import make_plan
from raycomp.storage.tensors import save_tensors

AUTO = TeacherSettings()


def test_more_classes_need_more_steps() -> None:
    lengths = [count_automatic_steps(130, outputs) for outputs in (2, 77, 150)]
    assert lengths == sorted(set(lengths))
    assert lengths[0] == LEAST_EPOCHS * 130


def test_many_rows_get_a_few_passes_and_few_rows_at_most_twenty() -> None:
    assert count_automatic_steps(100_000, 2) == LEAST_EPOCHS * 100_000
    assert count_automatic_steps(1, 150) == MOST_EPOCHS


@pytest.mark.parametrize(("epochs", "steps"), [(2, 200), (0.001, 1), (3.0, 300)])
def test_a_number_keeps_its_meaning(epochs: float, steps: int) -> None:
    assert count_teacher_steps(TeacherSettings(epochs=epochs), 3200, 150) == steps
    assert count_teacher_steps(AUTO, 3200, 150) == count_automatic_steps(100, 150)


def test_only_many_classes_raise_the_rate_of_the_classifier() -> None:
    assert find_classifier_factor(AUTO, 1) == find_classifier_factor(AUTO, 2) == 1.0
    factors = [find_classifier_factor(AUTO, outputs) for outputs in (2, 20, 77, 150, 1000)]
    assert factors == sorted(factors)
    assert factors[-2:] == [LARGEST_FACTOR, LARGEST_FACTOR]
    # An explicit length is the teacher of earlier versions; an explicit rate always counts.
    assert find_classifier_factor(TeacherSettings(epochs=3), 150) == 1.0
    own = TeacherSettings(epochs=3, learning_rate=1e-4, classifier_learning_rate=5e-4)
    assert find_classifier_factor(own, 2) == pytest.approx(5.0)


def test_the_task_trains_its_classifier_with_the_other_rate(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    tiny_job["teacher"] = {"epochs": 1, "learning_rate": 1e-3, "classifier_learning_rate": 4e-3}
    job = parse_job(tiny_job)
    context = RunContext(job, tmp_path / job.run_id)
    save_tensors(context.layout.teacher_start, context.network().state_dict())
    task = TeacherTask(context, {}, device=torch.device("cpu"), reduce=None)
    task.updater.update(0)
    rates = {}
    for group in task.updater.optimizer.param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in task.model.named_parameters()}
    assert named.pop("classifier.weight") == named.pop("classifier.bias") == pytest.approx(4e-3)
    assert list(named.values()) == pytest.approx([1e-3] * len(named))


def test_the_rate_of_the_classifier_is_part_of_the_identity(tiny_job: dict[str, Any]) -> None:
    base = parse_job(tiny_job)
    tiny_job["teacher"]["classifier_learning_rate"] = 1e-3
    assert parse_job(tiny_job).identity() != base.identity()


@pytest.mark.parametrize("epochs", [0, -1, 1001, "long", True])
def test_other_values_are_refused(tiny_job: dict[str, Any], epochs: Any) -> None:
    tiny_job["teacher"]["epochs"] = epochs
    with pytest.raises(UserError, match=r"teacher\.epochs"):
        parse_job(tiny_job)


def test_runs_of_earlier_versions_keep_length_and_identity(tiny_job: dict[str, Any]) -> None:
    """They have the number 3 in their job.json, which was the default."""
    del tiny_job["teacher"]["epochs"]
    new = parse_job(tiny_job)
    stored = {**new.model_dump(mode="json")}
    stored["teacher"]["epochs"] = 3.0
    old = parse_stored(stored)
    tiny_job["teacher"]["epochs"] = 3
    assert old.identity() == parse_job(tiny_job).identity() != new.identity()
    assert count_teacher_steps(old.teacher, 3200, 150) == 300


def test_a_plan_says_the_length_and_warns_of_a_short_one(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_job["teacher"] = {"epochs": 1}
    plan = make_plan(parse_job(tiny_job))
    assert plan["steps"]["teacher"] == 6
    (warning,) = [text for text in plan["overview"]["warnings"] if "teacher.epochs" in text]
    assert "teacher.epochs = 1 gives 6 steps" in warning
    assert "set it to 3." in warning

    tiny_job["teacher"] = {}
    plan = make_plan(parse_job(tiny_job))
    assert plan["steps"]["teacher"] == 6 * LEAST_EPOCHS
    assert not [text for text in plan["overview"]["warnings"] if "teacher.epochs" in text]
    teacher = plan["overview"]["figures"]["teacher"]
    assert teacher == {"is_given": False, "steps": 18, "epochs": 3.0}


def test_a_length_near_the_rule_gets_no_warning(tmp_path: Path, tiny_job: dict[str, Any]) -> None:
    tiny_job["teacher"] = {"epochs": 2}
    job = parse_job(tiny_job)
    assert describe_teacher(RunContext(job, tmp_path / job.run_id)).warnings == ()

"""Every method of the registry does what the platform expects, also a method of another package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from raycomp.config.job import schema_of
from raycomp.errors import UserError
from raycomp.methods import registry
from raycomp.methods.first_n import FirstN
from raycomp.methods.registry import METHODS
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentSettings
from raycomp.testing import check_method
from raycomp.training.hints import LABELS_ONLY, Objective
from tests.conftest import make_tiny_job

SMALL: dict[str, dict[str, Any]] = {
    "adabert": {
        "layers": 2,
        "width": 8,
        "embedding": 4,
        "epochs": 0.5,
        "child_epochs": 0.5,
        "batch_size": 32,
        "candidates": 2,
        "finalists": 2,
        "finalist_epochs": 0.1,
    },
    "first_n": {"epochs": 0.5},
    "pkd": {"epochs": 0.5},
    "uniform": {"epochs": 0.5},
    "hat": {"epochs": 0.5, "population": 6, "parents": 2, "mutations": 2, "generations": 2},
    "ofa": {"epochs": 0.1, "predictor_samples": 6, "population": 6, "rounds": 3, "finalists": 2},
    "sandwich": {"epochs": 0.5},
    "dynabert": {"epochs": 0.3, "batch_size": 16},
    "bilstm": {"epochs": 0.5, "hidden": 8, "fc": 8},
    "cofi": {"epochs": 0.3, "prune_epochs": 0.5, "target_epochs": 0.2},
    "kwon": {"samples": 64},
    "magnitude": {"epochs": 0.3},
    "static": {"epochs": 0.6},
    "theseus": {"epochs": 0.5},
    "minilm": {"epochs": 0.3, "relation_epochs": 0.3},
    "tinybert": {"epochs": 0.3, "intermediate_epochs": 0.3},
    "distilbert": {"epochs": 0.5},
    "pd": {"epochs": 0.3, "finetune_epochs": 0.3},
    "layerdrop": {"epochs": 0.3, "finetune_epochs": 0.3},
}


@pytest.fixture
def job(tuned_model: Path, tiny_data: Path) -> dict[str, Any]:
    data = make_tiny_job(tuned_model, tiny_data)
    data["augment"] = {"copies": 1, "candidates": 2}
    data["search"] = {"evaluations": 4, "batch": 2}
    data["heal"] = {"steps": 4}
    return data


@pytest.mark.parametrize("name", METHODS)
def test_a_method_conforms(name: str, job: dict[str, Any], tmp_path: Path) -> None:
    if name in SMALL:
        job[name] = SMALL[name]
    check_method(name, job, tmp_path)


def test_a_plain_space_exports_models_that_load_without_code(job: dict[str, Any], tmp_path: Path) -> None:
    job["space"] = {"depth": [1, 2, 3], "ffn": [16, 32, 64], "plain": True}

    check_method("yoco", job, tmp_path)

    exports = [path.parent for path in tmp_path.rglob("exports/*/config.json")]
    assert len({export.name for export in exports}) == 2
    for export in exports:
        assert list(export.glob("*.py")) == []
        model = AutoModelForSequenceClassification.from_pretrained(export)
        assert type(model) is BertForSequenceClassification


def test_a_plain_space_does_not_fit_dynabert(job: dict[str, Any], tmp_path: Path) -> None:
    job["space"] = {"plain": True}
    with pytest.raises(UserError, match=r"space.plain does not fit method dynabert"):
        check_method("dynabert", job, tmp_path)


class LastNSettings(StudentSettings):
    """The last n layers, fine-tuned."""

    method: ClassVar[str] = "last_n"
    title: ClassVar[str] = "Last n layers"


class LastN(FirstN):
    """A method of another package."""

    settings: ClassVar[type[StudentSettings]] = LastNSettings
    tasks: ClassVar[Any] = {"last_n-student": StudentTask}

    def layers(self, context: Any, num_layers: int) -> tuple[int, ...]:
        total = len(context.shape.layer_heads)
        return tuple(range(total - num_layers, total))

    def objective(self, context: Any) -> Objective:
        return LABELS_ONLY


@pytest.fixture
def _external(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("last_n", f"{__name__}:LastN", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: LastN)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    # A process reads the entry points once.
    registry.external_methods.cache_clear()
    yield
    registry.external_methods.cache_clear()


@pytest.mark.usefixtures("_external")
def test_a_method_of_another_package_conforms(job: dict[str, Any], tmp_path: Path) -> None:
    job["last_n"] = {"epochs": 0.5}
    check_method("last_n", job, tmp_path)


class Forgetful(FirstN):
    """A mutant: it trains finished students again."""

    def compress(self, run: Any) -> Any:
        for budget in run.context.job.budget:
            run.context.files.student(budget.name).network.unlink(missing_ok=True)
        return super().compress(run)


class Unsettled(FirstN):
    """A mutant: its restored model is not the deployed one."""

    def restore(self, context: Any, row: Any) -> Any:
        return super().restore(context, {**row, "arch": row["arch"].replace("64", "32")})


@pytest.mark.parametrize(
    ("mutant", "message"), [(Forgetful, "repeats finished"), (Unsettled, "another model")]
)
def test_the_suite_rejects_a_mutant(
    mutant: Any, message: str, job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycomp.testing.methods.load_method_class", lambda name: mutant)
    job["first_n"] = SMALL["first_n"]
    with pytest.raises((AssertionError, Exception), match=message):
        check_method("first_n", job, tmp_path)


def test_names_of_training_tasks_are_unique() -> None:
    names = [task for name in METHODS for task in registry.load_method_class(name).tasks]
    assert len(set(names)) == len(names)
    assert "teacher" not in names


def test_only_asked_methods_have_a_section() -> None:
    assert "pkd" not in schema_of(("yoco",)).model_fields
    assert schema_of(("pkd",)).model_fields["pkd"].annotation is registry.load_settings("pkd")

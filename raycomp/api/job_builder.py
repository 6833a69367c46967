"""From the arguments of a call to a checked job: the same settings as a job file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raycomp.api.data_input import Data, describe_data
from raycomp.api.model_input import Model, describe_model
from raycomp.config.budget import BudgetSettings
from raycomp.config.job import Job
from raycomp.config.loader import load_job, parse, parse_job, read_toml
from raycomp.config.overrides import put
from raycomp.config.references import make_reference
from raycomp.errors import UserError
from raycomp.storage.location import is_url
from raycomp.storage.remote import work_folder


class Budget(BudgetSettings):
    """One deployment target: a name and its limits.

    Args:
        name: Name of the budget, as in `run.save(name, folder)`.
        limits: One or more limits, such as `params="12M"`, `encoder_params="0.5x"` or `latency_ms=8`. A
            value with an "x" is relative to the full model. docs/job-file.md lists all kinds.
            `min_retention` sets the mark below which a model gets a warning.

    Raises:
        UserError: The name or the limit is not valid.

    Example:
        >>> import raycomp
        >>> raycomp.Budget("phone", encoder_params="0.5x").kind
        'encoder_params'
    """

    # mypy cannot tell the limits from `min_retention`, so their type is open; pydantic checks them.
    def __init__(self, name: str, **limits: Any) -> None:
        try:
            super().__init__(name=name, **limits)
        except ValidationError:
            # `parse` raises the message that the same mistake in a job file gets.
            parse(BudgetSettings, {"name": name, **limits})
            raise


Budgets = Mapping[str, Mapping[str, Any]] | Sequence[Budget | Mapping[str, Any]]
"""Budgets by name, or a list of them."""


@dataclass(frozen=True)
class Request:
    """The arguments that `compress`, `plan` and `submit` share.

    Attributes:
        model: Model to compress; None leaves the one of `job`.
        data: Training data; None leaves the ones of `job`.
        budgets: Budgets; None leaves the ones of `job`.
        job: Job file or job to start from; None starts from the defaults.
        methods: Compression methods; None leaves the ones of `job`.
        name: Name of the run; None leaves the one of `job`.
        tokenizer: Tokenizer of a model in memory.
        metric: Name of a metric, or a function; None leaves the one of `job`.
        settings: Dotted settings, such as `{"train.epochs": 2}`.
        sections: Sections as dicts, such as `{"train": {"epochs": 2}}`.
    """

    model: Model | None = None
    data: Data | None = None
    budgets: Budgets | None = None
    job: str | Path | Job | None = None
    methods: Sequence[str] | None = None
    name: str | None = None
    tokenizer: Any = None
    metric: str | Callable[..., float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)


def build_job(request: Request, storage: str | Path) -> Job:
    """Return the job of a call. Later sources override earlier ones.

    The order is: the job, the arguments methods, name and budgets, the sections, the arguments model and
    data, and the dotted settings. A model or a table in memory is written to the storage.

    Args:
        request: The arguments of the call.
        storage: Directory or URL of the runs.

    Raises:
        UserError: A setting, the model or the data are not valid; every fault has its own line.
    """
    if request.job is None and request.model is None:
        raise UserError("No model was given. Pass model=..., or a job file with job=...")

    content = _job_content(request.job)

    run = content.setdefault("run", {})
    if request.methods is not None:
        run["methods"] = list(request.methods)
    if request.name is not None:
        run["name"] = request.name
    if request.budgets is not None:
        content["budget"] = _budget_list(request.budgets)

    # Checks come last, in one place: parse_job names every mistake as it does for a job file.
    for section, values in request.sections.items():
        _merge_section(content, section, values)

    inputs = inputs_directory(storage)
    if request.model is not None:
        # The section may be malformed; then parse_job names it.
        model = content.setdefault("model", {})
        if isinstance(model, dict):
            model["name"] = describe_model(request.model, request.tokenizer, inputs)
    elif request.tokenizer is not None:
        raise UserError("A tokenizer was given without a model. Pass model=..., too.")
    if request.data is not None:
        content["task"] = describe_data(request.data, content.get("task", {}), inputs)

    if request.metric is not None:
        task = content.setdefault("task", {})
        if isinstance(task, dict):
            task["metric"] = to_metric_name(request.metric)

    for key, value in request.settings.items():
        put(content, key, to_plain(value, key), f"settings[{key!r}]")

    return parse_job(content)


def inputs_directory(storage: str | Path) -> Path:
    """Return the directory for models and tables that a caller held in memory.

    Args:
        storage: Directory or URL of the runs. For a URL the directory is on this machine, next to the
            local copies of the runs.
    """
    if is_url(storage):
        return work_folder(str(storage)) / "inputs"
    return Path(storage).resolve() / "inputs"


def to_plain(value: Any, name: str) -> Any:
    """Return a value as a job file would hold it.

    Paths become text, tuples become lists, numpy scalars become numbers, and functions and classes become
    references.

    Args:
        value: Value of a setting or of a section.
        name: Name of the setting or of the section; messages name it.

    Raises:
        UserError: Other processes cannot import a function or a class.
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner, name) for inner in value]
    if callable(value):
        return make_reference(value, name)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value


def to_metric_name(metric: str | Callable[..., float]) -> str:
    """Return the setting `task.metric` for a name or a function.

    Raises:
        UserError: Other processes cannot import the function.
    """
    if isinstance(metric, str):
        return metric
    return make_reference(metric, "metric")


def _job_content(job: str | Path | Job | None) -> dict[str, Any]:
    """Return a job as nested dicts that may be changed."""
    if job is None:
        return {}
    if isinstance(job, Job):
        # Defaults stay unset: the other arguments decide about the sections that it lacks.
        return job.model_dump(mode="json", exclude_unset=True)

    content = read_toml(job)
    if "study" in content:
        load_job(job)  # It raises the message about studies.
    return content


def _budget_list(budgets: Budgets) -> list[dict[str, Any]]:
    if isinstance(budgets, Mapping):
        entries = []
        for name, limits in budgets.items():
            if not isinstance(limits, Mapping):
                raise UserError(
                    f"The budget {name!r} is {limits!r}. Give its limit by kind, such as "
                    f'budgets={{"{name}": {{"encoder_params": "0.5x"}}}}.'
                )
            entries.append({"name": str(name), **to_plain(limits, f"budget {name}")})
        return entries

    return [_budget_entry(budget) for budget in budgets]


def _budget_entry(budget: Budget | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(budget, BudgetSettings):
        return budget.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    if isinstance(budget, Mapping):
        return dict(to_plain(budget, "budget"))
    raise UserError(
        f"The list of budgets contains {budget!r}. Give raycomp.Budget objects or dicts, such as "
        'raycomp.Budget("phone", encoder_params="0.5x").'
    )


def _merge_section(content: dict[str, Any], section: str, values: Any) -> None:
    """Add the settings of one section to a job; what is not a dict is left to `parse_job`."""
    values = to_plain(values, section)
    current = content.get(section)
    if isinstance(values, dict) and isinstance(current, dict):
        current.update(values)
    else:
        content[section] = values

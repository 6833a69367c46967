"""One run's settings, teacher scores and facts, read from the JSON files of its run directory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.config.renames import current_names
from raycomp.data.overview import Overview
from raycomp.errors import UserError, first_line
from raycomp.methods.registry import method_names
from raycomp.storage.layout import RunLayout


@dataclass(frozen=True)
class RunRecord:
    """What a run directory contains besides its tables.

    Attributes:
        name: Name of the run directory; column `run` of every table has it.
        path: The run directory.
        job: Settings, as in job.json.
        metric: Metric that the run used for model selection; None before the first evaluation if the job
            does not name one.
        teacher: Split -> the teacher's metrics, `loss` and `examples`; empty before the teacher is
            scored.
        teacher_latency_ms: Median time of one forward pass; None before the first deployment.
        searches: Method -> summary of its finished search and deployment, as in deployed.json.
        environment: Versions that the run recorded; empty if it recorded none.
        facts: Facts on model and data, as in facts.json; empty before the run writes them.
        overview: Facts about data and teacher; None if the run recorded none.
        shared: Artifact ("teacher", "supernet", "distillation_data") -> name of the run that it was
            reused from.
        tuned: Budget -> scores of its network after another fine-tuning.
    """

    name: str
    path: Path
    job: dict[str, Any]
    metric: str | None
    teacher: dict[str, dict[str, float]]
    teacher_latency_ms: float | None
    searches: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    overview: Overview | None = None
    shared: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)

    def setting(self, section: str, key: str) -> Any:
        """Return one setting, or None if the job does not have it."""
        settings = self.job.get(section)
        return settings.get(key) if isinstance(settings, dict) else None

    @property
    def task(self) -> str:
        """Name of the task, or its training file."""
        return str(self.setting("task", "name") or self.setting("task", "train") or "unknown task")

    @property
    def length(self) -> int | None:
        """Sequence length in tokens that FLOPs are counted at."""
        return self.setting("search", "flops_length") or self.setting("task", "max_length")

    def examples(self, split: str) -> list[int]:
        """Return the number of examples of the selection split, or of each validation split.

        Args:
            split: "selection" or "validation".
        """
        scores = self._split_scores(split)
        return [int(values["examples"]) for values in scores if values.get("examples")]

    def teacher_score(self, split: str) -> float | None:
        """Return the teacher's score, or None before it is known.

        Args:
            split: "selection", or "validation" for the mean over the validation splits.
        """
        scores = [values[self.metric] for values in self._split_scores(split) if self.metric in values]
        return sum(scores) / len(scores) if scores else None

    def _split_scores(self, split: str) -> list[dict[str, float]]:
        """Return the teacher's metrics on the selection split, or on every other split."""
        is_selection = split == "selection"
        return [values for name, values in self.teacher.items() if (name == "selection") == is_selection]


def read_run_record(run_dir: Path, evaluations: pd.DataFrame, deployments: pd.DataFrame) -> RunRecord:
    """Read the JSON files of a run directory.

    Args:
        run_dir: The run directory.
        evaluations, deployments: The run's tables; they name the metric.

    Raises:
        UserError: A file is damaged.
    """
    layout = RunLayout(run_dir)
    # Jobs of older runs have old names of settings.
    job = current_names(read_json_file(layout.job), note=False)
    facts = read_json_file(layout.facts)
    scores = read_json_file(layout.teacher_score)
    searches = {
        method: _with_new_keys(read_json_file(layout.summary(method)))
        for method in method_names()
        if layout.summary(method).exists()
    }
    latencies = [s["teacher_latency_ms"] for s in searches.values() if s.get("teacher_latency_ms")]

    return RunRecord(
        name=run_dir.name,
        path=run_dir,
        job=job,
        metric=_find_metric(job, facts, evaluations, deployments),
        teacher={split: values for split, values in scores.items() if isinstance(values, dict)},
        teacher_latency_ms=float(latencies[0]) if latencies else None,
        searches=searches,
        environment=read_json_file(layout.environment),
        facts=facts,
        overview=_read_overview(layout.overview),
        shared={part: str(source) for part, source in read_json_file(layout.reused).items()},
        tuned=_read_tuned(layout),
    )


def read_finetuned_scores(run_dir: Path) -> dict[str, float]:
    """Return the column `finetuned`: budget -> validation score after another fine-tuning."""
    tuned = _read_tuned(RunLayout(run_dir))
    return {budget: float(outcome["validation"]) for budget, outcome in tuned.items()}


def _read_tuned(layout: RunLayout) -> dict[str, dict[str, Any]]:
    """Return budget -> scores of its network after another fine-tuning."""
    tunings = [read_json_file(path) for path in sorted(layout.finetune.glob("*.json"))]
    # Networks that a study draws at random are fine-tuned too, but they are not deployed.
    return {str(t["name"]): t for t in tunings if t.get("deployed") and "validation" in t}


def _with_new_keys(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary of a method with the keys of today; earlier runs call one of them otherwise."""
    renamed = dict(summary)
    if "dearest" in renamed:
        renamed["most_expensive"] = renamed.pop("dearest")
    return renamed


def _read_overview(path: Path) -> Overview | None:
    """Return the facts about data and teacher, or None for a run of a version that recorded none.

    Raises:
        UserError: The file is damaged.
    """
    data = read_json_file(path)
    if not data:
        return None
    try:
        return Overview.from_json(data)
    except ValueError as error:
        raise UserError(
            f"File {path} is damaged: {error}. Run the job again to write it again, or leave this run "
            "out."
        ) from None


def _find_metric(
    job: dict[str, Any], facts: dict[str, Any], evaluations: pd.DataFrame, deployments: pd.DataFrame
) -> str | None:
    """Return the metric of the first row that has one, or else the metric of the job or of the task."""
    # A deployment names the metric of its validation score, which is the one that readers compare.
    for frame in (deployments, evaluations):
        metrics = frame["metric"].dropna()
        if len(metrics):
            return str(metrics.iloc[0])

    task = job.get("task")
    metric = task.get("metric") if isinstance(task, dict) else None
    return metric or facts.get("primary")


def read_json_file(path: Path) -> dict[str, Any]:
    """Return a JSON object that a run wrote; a missing file is an empty object.

    Raises:
        UserError: The file cannot be read, or it does not contain a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"File {path} cannot be read ({first_line(error)}). Run the job again to write it again, or "
            "leave this run out."
        ) from None
    if not isinstance(data, dict):
        raise UserError(
            f"File {path} does not contain a JSON object. Run the job again to write it again."
        )
    return data

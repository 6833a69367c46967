"""Runs as named pandas frames: tables, settings and the teacher's scores. Works while a run writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from raycomp.config.renames import current_names
from raycomp.errors import UserError, first_line
from raycomp.methods.registry import method_names
from raycomp.report.study_results import StudyResults, is_study_dir, load_study_results
from raycomp.storage.layout import RunLayout, StudyLayout, find_runs, find_studies
from raycomp.storage.location import fetched, is_figure
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import read_parts

NAMES = ("steps", "distribution", "evaluations", "deployments")


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says beside its tables.

    Attributes:
        name: of the folder; the `run` column of every table.
        path: the folder.
        job: settings, as in job.json.
        metric: that choices were made on; None before the first evaluation if the job names none.
        teacher: split -> its metrics, `loss` and `examples`; empty until the teacher is scored.
        teacher_latency_ms: median of one forward pass; None before the first deployment.
        summaries: what each finished method says of its search.
        environment: versions that the run recorded; empty if it recorded none.
        facts: what the run knows of model and data, as in facts.json; empty before it does.
        shared: part ("teacher", "supernet", "distillation_data") -> the run that it was taken over from.
        tuned: budget -> what the deployed network scored after fine-tuning of its own.
    """

    name: str
    path: Path
    job: dict[str, Any]
    metric: str | None
    teacher: dict[str, dict[str, float]]
    teacher_latency_ms: float | None
    summaries: tuple[dict[str, Any], ...]
    environment: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, dict[str, Any]] = field(default_factory=dict)

    def setting(self, section: str, key: str) -> Any:
        """Return one setting, None where the job lacks it."""
        part = self.job.get(section)
        return part.get(key) if isinstance(part, dict) else None

    @property
    def task(self) -> str:
        """Name of the task, or its training file."""
        return str(self.setting("task", "name") or self.setting("task", "train") or "unknown task")

    @property
    def length(self) -> int | None:
        """Tokens of the sequence that FLOPs are counted at."""
        return self.setting("search", "flops_length") or self.setting("task", "max_length")

    def examples(self, split: str) -> list[int]:
        """Return the number of examples of `selection`, or of each validation split."""
        chosen = [v for k, v in self.teacher.items() if (k == "selection") == (split == "selection")]
        return [int(v["examples"]) for v in chosen if v.get("examples")]

    def teacher_score(self, split: str) -> float | None:
        """Return the teacher's score on `selection`, or its mean over the validation splits."""
        chosen = [v for k, v in self.teacher.items() if (k == "selection") == (split == "selection")]
        values = [v[self.metric] for v in chosen if self.metric in v]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class RunTables:
    """Tables of one or several runs; the schemas are those of `raycomp.storage.tables.SCHEMAS`.

    Attributes:
        steps: a row per training step.
        distribution: theta over time; a further column `stage` names the training, such as
            "supernet" or "adabert-search.<trial>".
        evaluations: a row per scored architecture.
        deployments: a row per deployed model.
        runs: settings and teacher of each run, in the order given.
        ablations: a row per figure of a study's run.
        studies: the studies, in the order given.
    """

    steps: pd.DataFrame
    distribution: pd.DataFrame
    evaluations: pd.DataFrame
    deployments: pd.DataFrame
    runs: tuple[RunRecord, ...]
    ablations: pd.DataFrame = field(
        default_factory=lambda: SCHEMAS["ablations"].empty_table().to_pandas()
    )
    studies: tuple[StudyResults, ...] = ()

    def of(self, *names: str) -> RunTables:
        """Return the part that belongs to some runs."""

        def mine(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["run"].isin(names)]

        return RunTables(
            mine(self.steps),
            mine(self.distribution),
            mine(self.evaluations),
            mine(self.deployments),
            tuple(run for run in self.runs if run.name in names),
            mine(self.ablations),
        )


def load_tables(*paths: str | Path) -> RunTables:
    """Read runs into frames; what a run has not written yet is empty.

    Args:
        paths: folders of runs, of studies (with all their runs), or of storages that hold runs and
            studies (of those, the table `ablations` alone), or URLs of any (s3://bucket/runs); a run
            named twice is read once.

    Raises:
        UserError: a folder is missing, is no run and holds none, or has a file that is not whole.
    """
    if not paths:
        raise UserError("no run was given; give a run's folder, or a storage folder that holds runs")
    here = [fetched(path, is_figure) for path in paths]
    found = dict.fromkeys(f.resolve() for path in here for f in _studies(path))
    studies = tuple(load_study_results(f) for f in found)
    folders = list(dict.fromkeys(f.resolve() for path in here for f in _run_folders(path)))
    for folder in folders:
        twin = next(f for f in folders if f.name == folder.name)
        if twin != folder:
            raise UserError(f"{twin} and {folder} bear the same name; give one, or rename its folder")
    read = [_read_run(folder) for folder in folders]
    steps, distribution, evaluations, deployments = (
        _joined([frames[i] for frames, _ in read] or [SCHEMAS[name].empty_table().to_pandas()])
        for i, name in enumerate(NAMES)
    )
    ablations = _joined([s.frame for s in studies] or [SCHEMAS["ablations"].empty_table().to_pandas()])
    runs = tuple(run for _, run in read)
    return RunTables(steps, distribution, evaluations, deployments, runs, ablations, studies)


def _studies(path: Path) -> list[Path]:
    """Return the studies at or below a folder."""
    return [path] if is_study_dir(path) else sorted(p for p in find_studies(path))


def _run_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        near = ", ".join([run.name for run in find_runs(path.parent)][:5])
        hint = f"; {path.parent} holds: {near}" if near else ""
        raise UserError(f"{path} is no folder{hint}; give a run's folder, such as runs/NAME-HASH")
    if RunLayout(path).job.exists():
        return [path]
    if is_study_dir(path):
        return find_runs(StudyLayout(path).runs)
    found = find_runs(path)
    if not found and not _studies(path):
        raise UserError(
            f"{path} is no run's folder and holds none (a run has a job.json); give a run's folder, "
            "such as runs/NAME-HASH, or start the run again to complete it"
        )
    return found


def _summaries(layout: RunLayout) -> list[Path]:
    """Return the summaries of the methods that are deployed."""
    paths = [layout.summary(method) for method in method_names()]
    return [path for path in paths if path.exists()]


def _read_run(folder: Path) -> tuple[list[pd.DataFrame], RunRecord]:
    layout = RunLayout(folder)
    frames = [_read(folder, name) for name in NAMES]
    job = current_names(_json(layout.job, {}), note=False)
    frames[3] = frames[3].sort_values("method", ascending=False, kind="stable")  # yoco first
    evaluations, deployments = frames[2], frames[3]
    metrics = [*deployments["metric"].dropna(), *evaluations["metric"].dropna().head(1)]
    settings = job.get("task")
    given = settings.get("metric") if isinstance(settings, dict) else None
    summaries = [_json(path, {}) for path in _summaries(layout)]
    latencies = [s["teacher_latency_ms"] for s in summaries if s.get("teacher_latency_ms")]
    scores = _json(layout.teacher_score, {})
    facts = _json(layout.facts, {})
    given = given or facts.get("primary")
    tuned = [_json(path, {}) for path in sorted(layout.finetune.glob("*.json"))]
    run = RunRecord(
        name=folder.name,
        path=folder,
        job=job,
        metric=str(metrics[0]) if metrics else given,
        teacher={k: v for k, v in scores.items() if isinstance(v, dict)},
        teacher_latency_ms=float(latencies[0]) if latencies else None,
        summaries=tuple(summaries),
        environment=_json(layout.environment, {}),
        facts=facts,
        shared={k: str(v) for k, v in _json(layout.reused, {}).items()},
        tuned={str(t["name"]): t for t in tuned if t.get("deployed") and "validation" in t},
    )
    return frames, run


def _read(folder: Path, name: str) -> pd.DataFrame:
    """Read a table; rows of theta get the training that their file is named after."""
    parts = read_parts(folder, name) or [(folder / "none-0", SCHEMAS[name].empty_table())]
    if name == "distribution":
        parts = [(path, rows.append_column("stage", _stage(path, rows))) for path, rows in parts]
    return pa.concat_tables([rows for _, rows in parts]).to_pandas().assign(run=folder.name)


def _stage(path: Path, rows: pa.Table) -> pa.Array:
    return pa.array([path.stem.rpartition("-")[0]] * len(rows), pa.string())


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the runs' rows one after another; a run without rows must not change the columns' types."""
    filled = [f for f in frames if len(f)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def _json(path: Path, default: dict[str, Any]) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); run the job again to write it anew, or leave "
            "this run out"
        ) from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object; run the job again to write it anew")
    return data

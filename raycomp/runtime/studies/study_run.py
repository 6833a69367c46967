"""One cell of a study: a whole run, its wall times, and its rows of table `ablations`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.config.job import Job
from raycomp.config.loader import parse_stored
from raycomp.config.study import StudyRun, StudySettings
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.report.statistics import kendall_tau
from raycomp.runtime.cluster.progress import Progress, Update
from raycomp.runtime.pipeline.adabert_deploy import trials
from raycomp.runtime.pipeline.artifact_reuse import reuse_artifacts
from raycomp.runtime.pipeline.finetune import outcomes
from raycomp.runtime.pipeline.run import run_job
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_table, write_rows

BEST = 10  # architectures whose mean is followed over a search (YOCO-BERT, Fig. 3)


class StageTimer(Progress):
    """Writes how long each stage of a run took, the start that ended it alone, and which one runs now."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(enabled=False)
        self._path = run_dir / "stages.json"

    @contextmanager
    def bar(self, name: str) -> Iterator[Update]:
        """Time the block."""
        began, before = time.perf_counter(), read_stage_seconds(self._path.parent)
        write_json(self._path, {"now": name, "seconds": before})
        yield lambda done, total, info: None
        taken = before.get(name, 0.0) + time.perf_counter() - began
        write_json(self._path, {"now": "", "seconds": {**before, name: taken}})


def read_stage_seconds(run_dir: Path) -> dict[str, float]:
    """Return the wall seconds of each stage of a run that a Stopwatch saw end."""
    try:
        return dict(json.loads((run_dir / "stages.json").read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        return {}


def execute_study_run(folder: Path, settings: StudySettings, cell: StudyRun) -> None:
    """Run a cell to its end and write its rows into the study's folder.

    Raises:
        UserError: as `run_job`; or the search that the cell takes its structure from has not ended.
    """
    runs = folder / "runs"
    searched = None
    if cell.structure_of is not None:
        searched = _searched(folder, settings, cell)
        cell = cell.with_structure(_structure(searched))
    if searched is not None and (job := _equal_run(searched, cell)) is not None:
        found = ablation_rows(searched, settings, replace(cell, job=job))
        found = [row for row in found if row["metric"] != "seconds"]  # they were the search's
    else:
        run_dir = runs / cell.job.run_id
        reuse_artifacts(cell.artifact_keys, run_dir)
        run_job(cell.job, runs, StageTimer(run_dir))
        found = ablation_rows(run_dir, settings, cell)
    write_rows(folder, "ablations", found, cell.name)


def _searched(folder: Path, settings: StudySettings, cell: StudyRun) -> Path:
    """Return the run in which the structure was searched that a cell takes."""
    found = read_table(folder, "ablations")
    key = (settings.variant[0].name, cell.structure_of, cell.seed)
    mine = found[(found["variant"] == key[0]) & (found["task"] == key[1]) & (found["seed"] == key[2])]
    if mine.empty:
        raise UserError(f"{cell.name} waits for the structure of {key[1]}, whose search did not end")
    return folder / "runs" / str(mine["run"].iloc[0])


def _structure(searched: Path) -> str:
    frame = read_table(searched, "deployments")
    return str(frame[frame["method"] == "adabert"]["arch"].iloc[0])


def _equal_run(searched: Path, cell: StudyRun) -> Job | None:
    """Return the job of the run that searched a cell's structure, if it trained what the cell would.

    So does the run of the cell's own task: it has trained that structure from scratch, and every other
    setting is equal. Its rows are the cell's, and nothing is trained twice; but for a `fresh` cell, whose
    cost is measured, and for a job of several structures, of which the cell takes the first.
    """
    if cell.fresh or len(trials(cell.job)) > 1:
        return None
    job = parse_stored(json.loads((searched / "job.json").read_text()))
    mine, other = cell.job.model_dump(mode="json"), job.model_dump(mode="json")
    for data in (mine, other):
        del data["run"]["name"], data["adabert"]["structure"]
    return job if mine == other else None


def ablation_rows(run_dir: Path, settings: StudySettings, cell: StudyRun) -> list[dict[str, Any]]:
    """Return all that a finished run says of its cell."""
    context = RunContext(cell.job, run_dir)
    common = {
        "run": run_dir.name,
        "study": settings.name,
        "variant": cell.variant,
        "task": cell.task,
        "seed": cell.seed,
    }
    teacher = json.loads((run_dir / "teacher" / "score.json").read_text())
    splits = [v for k, v in teacher.items() if k != "selection"]
    examples = sum(int(v["examples"]) for v in splits)
    selected = float(teacher["selection"][context.primary])
    validated = sum(float(v[context.primary]) for v in splits) / len(splits)
    found: list[dict[str, Any]] = [
        {
            "budget": "teacher", "method": "teacher", "metric": context.primary, "value": validated,
            "selection": selected, "gap": selected - validated, "examples": examples,
            "params": int(context.costs.cost("params", context.space.largest())),
            "published": settings.published.get(cell.task, {}).get("teacher", {}).get("teacher"),
        }
    ]  # fmt: skip
    published = settings.published.get(cell.task, {}).get(cell.variant, {})
    for row in _deployed(run_dir, cell):
        found.append({**row, "examples": examples, "published": published.get(row["budget"])})
    found += _ranking(run_dir)
    found += _search(context)
    found += [
        {"budget": name, "metric": "seconds", "value": seconds}
        for name, seconds in read_stage_seconds(run_dir).items()
    ]
    return [{**common, **row} for row in found]


def _deployed(run_dir: Path, cell: StudyRun) -> list[dict[str, Any]]:
    """Return a row per budget: of the deployed network, or of the tuned one where the job tunes it."""
    frame = read_table(run_dir, "deployments")
    frame = frame[frame["validation"].notna()]
    tuned = {o["name"]: o for o in outcomes(run_dir) if o["deployed"]}
    students = int((frame["method"] == "adabert").sum())
    found = []
    for row in frame.to_dict("records"):
        score = tuned.get(str(row["budget"]), row) if row["method"] == "yoco" else row
        found.append(
            {
                "budget": "cnn" if row["method"] == "adabert" and students == 1 else row["budget"],
                "method": "finetuned" if score is not row else row["method"],
                "metric": row["metric"],
                "value": score["validation"],
                "selection": score["selection"],
                "gap": score["selection"] - score["validation"],
                "params": int(row["params"]),
            }
        )
    return found


def _ranking(run_dir: Path) -> list[dict[str, Any]]:
    """Return what drawn networks scored as inherited and on their own, and how the two agree."""
    drawn = [o for o in outcomes(run_dir) if not o["deployed"]]
    if not drawn:
        return []
    found: list[dict[str, Any]] = []
    for method, key in (("inherited", "inherited"), ("alone", "selection")):
        for one in drawn:
            figures = {"params": one["params"], "examples": one["examples"]}
            found.append(
                {"budget": one["name"], "method": method, "metric": one["metric"],
                 "value": one[key], **figures}
            )  # fmt: skip
    tau, p = kendall_tau([o["inherited"] for o in drawn], [o["selection"] for o in drawn])
    for metric, value in (("kendall_tau", tau), ("kendall_p", p)):
        found.append({"budget": f"{len(drawn)} networks", "metric": metric, "value": value})
    return found


def _search(context: RunContext) -> list[dict[str, Any]]:
    """Return the best feasible scores after every batch of a search for one budget by one searcher."""
    job = context.job
    if len(job.budget) * len(job.search.searchers) * len(job.search.seeds) != 1:
        return []  # several searches share the ledger, and its rows are nobody's alone
    frame = read_table(context.run_dir, "evaluations")
    frame = frame[frame["method"] == "yoco"].sort_values("created_at", kind="stable")
    budget = context.budget(job.budget[0])
    met = [budget.is_met_by(Architecture.from_json(str(a))) for a in frame["arch"]]
    found = []
    for count in range(job.search.batch, len(frame) + 1, job.search.batch):
        mine = pd.Series(frame["value"].to_numpy()[:count])[met[:count]].nlargest(BEST)
        for name, value in (("best", mine.max()), (f"best{BEST}", mine.mean())):
            if len(mine):
                found.append({"budget": job.budget[0].name, "metric": f"{name}@{count:04d}",
                              "value": float(value)})  # fmt: skip
    return found

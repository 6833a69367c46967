"""Ray Tune runs a study: one trial per cell, each a whole run in a process of its own.

A cell is finished when its rows stand in the study's table; nothing of Tune's own state is read back.
An interrupted study runs the cells that are missing, and each of those goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import RunConfig, TuneConfig, Tuner

from raycomp.config.study import StudyRun, StudySettings, StudySpec
from raycomp.data.tasks import Task
from raycomp.errors import UserError
from raycomp.methods.context import Facts, RunContext
from raycomp.runtime.cluster import connect as cluster
from raycomp.runtime.cluster.capacity import count_worker_slots, share_cpus
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import is_visible_to_all_nodes
from raycomp.runtime.cluster.placement import schedule_outside_trial
from raycomp.runtime.cluster.progress import Progress, Update, polling
from raycomp.runtime.pipeline.preflight import check
from raycomp.runtime.pipeline.run import hold
from raycomp.runtime.studies.stage_timer import STAGES_FILE, read_current_stage
from raycomp.storage.files import write_json
from raycomp.storage.tables import part_files


def run_study(study: StudySpec, storage: Path, progress: Progress) -> Path:
    """Run every cell that is not finished; return the study's folder.

    Raises:
        UserError: a mistake in a cell, before anything runs; or some cells failed: the others' rows
            are written, and the same call runs what is missing.
    """
    folder = storage.resolve() / study.id
    todo = [c for c in study.runs if c.name not in finished_runs(folder)]
    _check(todo, folder)
    fresh = not folder.exists()
    with hold(folder):
        if not fresh:
            count = len(study.runs)
            progress.say(f"found {study.id}: {count - len(todo)} of {count} runs done")
        write_json(folder / "study.json", describe_study(study))
        if todo:
            owned = cluster.connect()
            try:
                with progress.bar("study") as bar:
                    _run(study, todo, folder, bar)
            finally:
                if owned:
                    ray.shutdown()
    return folder


def finished_runs(folder: Path) -> set[str]:
    """Return the names of the cells whose rows are written."""
    return {path.stem for path in part_files(folder, "ablations")}


def describe_study(study: StudySpec) -> dict[str, Any]:
    """Return the study as its folder keeps it: settings, and every cell with its settings."""
    cells = [
        {
            "name": c.name,
            "variant": c.variant,
            "task": c.task,
            "seed": c.seed,
            "structure_of": c.structure_of,
            "fresh": c.fresh,
            "job": c.job.model_dump(mode="json"),
        }
        for c in study.runs
    ]
    settings = study.settings.model_dump(mode="json")
    return {"id": study.id, "preset": study.preset, "study": settings, "cells": cells}


def _check(cells: list[StudyRun], folder: Path) -> None:
    """Refuse a study of which any cell would fail later; seeds of a cell fail alike.

    Raises:
        UserError: every fault, with the variant that it is of.
    """
    known: dict[str, tuple[Facts, Task]] = {}
    seen: set[tuple[str, str]] = set()
    faults: list[str] = []
    for cell in cells:
        if (cell.variant, cell.task) in seen:
            continue
        seen.add((cell.variant, cell.task))
        context = RunContext(cell.job, folder / "runs" / cell.job.run_id)
        model = json.dumps([cell.job.task.model_dump(), cell.job.model.model_dump()])
        if model in known:
            context.facts, context.task = known[model]  # loaded once, not for every variant
        try:
            check(context)
            known[model] = context.facts, context.task
        except UserError as error:
            faults += [f"variant {cell.variant}, {cell.task}: {line}" for line in str(error).splitlines()]
    if faults:
        raise UserError("\n".join(faults))


def plan_batches(
    cells: list[StudyRun], settings: StudySettings, done: set[str]
) -> Iterator[list[StudyRun]]:
    """Split cells so that what two of them share is made in an earlier round than the second one's.

    Args:
        cells: not finished, in the study's order.
        settings: of the study.
        done: names of the finished cells.
    """
    left, ended, made = list(cells), set(done), set[str]()
    first = settings.variant[0].name
    while left:
        batch: list[StudyRun] = []
        claimed: set[str] = set()
        for cell in left:
            source = StudyRun(first, cell.structure_of or "", cell.seed, cell.job).name
            if cell.structure_of is not None and source not in ended:
                continue
            new = set(cell.artifact_keys.values()) - made
            if not new & claimed:
                claimed |= new
                batch.append(cell)
        made |= claimed
        ended |= {c.name for c in batch}
        left = [c for c in left if c not in batch]
        yield batch


def _run(study: StudySpec, todo: list[StudyRun], folder: Path, bar: Update) -> None:
    names = {c.name for c in todo}

    def look() -> None:
        done = len(names & finished_runs(folder))
        bar(done, len(todo), {"phase": _now(folder)})

    failed: dict[str, str] = {}
    with polling(look):
        for batch in plan_batches(todo, study.settings, finished_runs(folder)):
            failed |= _tune(study.settings, batch, folder)
    shutil.rmtree(folder / "tune", ignore_errors=True)  # the rows hold all that counts
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(todo)} runs of the study failed; {name}: {why}\n"
            "the others are done; the same command runs what is missing"
        )


def threads_per_run(together: int) -> int:
    """Return the threads of each of so many cells that run together, maybe all of them on one node."""
    return max(1, share_cpus(1) // together)


def _tune(settings: StudySettings, cells: list[StudyRun], folder: Path) -> dict[str, str]:
    """Run cells as a grid of Ray Tune; return why each failed one did."""
    chosen = settings.model_dump(mode="json")
    data = {c.name: _sent(c) for c in cells}
    train = cells[0].job.train
    slots = max(1, count_worker_slots(train.cpus or share_cpus(1), train.gpus) // train.workers)
    threads = threads_per_run(min(slots, len(cells)))

    where = schedule_outside_trial(is_visible_to_all_nodes(folder))

    def study_cell(config: dict[str, Any]) -> dict[str, Any]:
        # A process of its own: a run drives Train and Tune itself, and leaves no memory behind. Outside
        # of the trial's placement group.
        work = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=where)(_work)
        why = ray.get(work.remote(str(folder), chosen, data[config["cell"]], threads))
        return {"cell": config["cell"], "why": why}

    tuner = Tuner(
        # The trial only waits. It asks for a byte, for it must ask for something: with a sliver of a CPU
        # it would keep a whole one from the workers.
        tune.with_resources(study_cell, {"cpu": 0, "memory": 1}),
        param_space={"cell": tune.grid_search(list(data))},
        tune_config=TuneConfig(max_concurrent_trials=slots, reuse_actors=True),
        run_config=RunConfig(name="study", storage_path=str(folder / "tune"), verbose=0),
    )
    failed: dict[str, str] = {}
    for result in tuner.fit():
        cell, why = str((result.config or {}).get("cell")), (result.metrics or {}).get("why")
        if result.error is not None:
            failed[cell] = str(result.error).strip().splitlines()[-1]
        elif why is None:
            raise KeyboardInterrupt  # Tune catches it, and ends its trials without a word
        elif why:
            failed[cell] = why
    shutil.rmtree(folder / "tune" / "study", ignore_errors=True)
    return failed


def _sent(cell: StudyRun) -> dict[str, Any]:
    return {
        "variant": cell.variant,
        "task": cell.task,
        "seed": cell.seed,
        "job": cell.job.model_dump(mode="json"),
        "structure_of": cell.structure_of,
        "fresh": cell.fresh,
    }


def _work(folder: str, settings: dict[str, Any], cell: dict[str, Any], threads: int) -> str:
    """Run one cell; return why it failed, or an empty text.

    Args:
        folder: of the study.
        settings: of the study.
        cell: what `_sent` returned.
        threads: for what this process computes itself, beside the cells that run at the same time.
    """
    import torch

    from raycomp.config.loader import parse_job
    from raycomp.runtime.studies.study_run import execute_study_run

    torch.set_num_threads(threads)
    given = StudyRun(**{**cell, "job": parse_job(cell["job"])})
    try:
        execute_study_run(Path(folder), StudySettings.model_validate(settings), given)
    except UserError as error:
        return str(error)
    return ""


def _now(folder: Path) -> str:
    """Say which runs are at work, and at what."""
    found = []
    for path in sorted((folder / "runs").glob(f"*/{STAGES_FILE}")):
        stage = read_current_stage(path.parent)
        if stage:
            found.append(f"{path.parent.name}: {stage}")
    return ", ".join(found[:2])

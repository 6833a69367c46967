"""AdaBERT on Ray: search and child of each point of a sweep, then what `adabert_deploy` does."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner

from raycomp.config.job import Job
from raycomp.config.loader import parse_job
from raycomp.encoder.pretrained import load_masked_language_model
from raycomp.errors import UserError
from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compile_child, compiled_config, compiled_macs
from raycomp.methods.adabert.efficiency import operation_macs, operation_params
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, cell_edges, parse_structure_setting
from raycomp.methods.adabert.student import Child
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.actor_filesystem import find_file_server
from raycomp.runtime.cluster.capacity import count_worker_slots
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.placement import schedule_outside_trial
from raycomp.runtime.cluster.progress import Progress, Update, polling
from raycomp.runtime.pipeline.adabert_deploy import Trial, deploy, flops_length, load_child, trials
from raycomp.runtime.pipeline.deploy import logits_of, score_forward
from raycomp.runtime.training.adabert_tasks import read_structure
from raycomp.runtime.training.distillation_data import DistillationData, no_mlm, prepare
from raycomp.runtime.training.trainer import run_training
from raycomp.storage.files import file_hash, write_json
from raycomp.storage.tables import write_rows
from raycomp.storage.tensors import load_tensors, save_tensors

STAGES = ("adabert-search", "adabert-child")


def compress(job: Job, run_dir: Path, progress: Progress) -> None:
    """Search, train and deploy the CNNs of a job whose teacher is ready.

    Raises:
        UserError: what the settings, the data or the cluster do not allow.
    """
    room = DistillationData(job, run_dir)
    if (room.folder / "deployed.json").exists():
        return
    prepare(room, progress)
    _ = room.tokens("train"), room.augmented_tokens  # here: workers may have no text to make them of
    todo = [t for t in trials(job) if not (room.folder / t.name / "outcome.json").exists()]
    if len(trials(job)) == 1:
        for trial in todo:
            _alone(room, trial, progress)
    elif todo:
        with progress.bar("adabert sweep") as bar:
            _sweep(room, todo, bar)
    with progress.bar("adabert deploy") as bar:
        latency = deploy(room, bar)
    write_json(
        room.folder / "deployed.json",
        {"trials": len(trials(job)), "teacher_latency_ms": latency},
    )


def _alone(room: DistillationData, trial: Trial, progress: Progress) -> None:
    """Run the only trial, with all of the cluster."""
    for stage in STAGES:
        with progress.bar(stage) as bar:
            _train(room, trial, stage, bar)
    _record(room, trial)


def _train(room: DistillationData, trial: Trial, stage: str, bar: Update, cpus: float = 0) -> None:
    """Run one of a trial's two trainings, unless its result is there."""
    job, folder = room.job, room.folder / trial.name
    result = {"adabert-search": "structure.json", "adabert-child": "child.safetensors"}[stage]
    if (folder / result).exists():
        return
    given = job.settings(AdabertSettings)
    if stage == "adabert-search" and given.structure is not None:
        found = parse_structure_setting(given.structure, trial.layers, given.nodes, given.operations)
        write_json(folder / result, json.loads(found.to_json()))
        return
    if stage == "adabert-child" and job.settings(AdabertSettings).child_epochs == 0:
        _inherit(room, folder)
        return
    plan = {"trial": trial.name, **asdict(trial), "seed": job.run.seed * 10_007 + trial.seed}
    run_training(f"{stage}.{trial.name}", job, room.run_dir, plan, bar, cpus=cpus)


def _inherit(room: DistillationData, folder: Path) -> None:
    """Write the child as it comes out of the parent, untrained."""
    child = Child(room.student_shape, read_structure(folder))
    trained = load_tensors(folder / "parent.safetensors")
    save_tensors(folder / "child.safetensors", {k: trained[k] for k in child.state_dict()})


def _sweep(room: DistillationData, todo: list[Trial], bar: Update) -> None:
    """Let Ray Tune run the trials; each drives its own Ray Train."""
    job = room.job
    data, run_dir = job.model_dump(mode="json"), room.run_dir
    each = job.train.cpus or 1.0
    slots = max(1, count_worker_slots(each, job.train.gpus) // job.train.workers)

    where = schedule_outside_trial(find_file_server(run_dir.name) is None)
    work = ray.remote(num_cpus=0, max_calls=1, max_retries=0, scheduling_strategy=where)(_compressed)

    def run(config: dict[str, Any]) -> dict[str, Any]:
        return {"value": ray.get(work.remote(data, str(run_dir), config["trial"], each))}

    run.__name__ = f"sweep-{run_dir.name}"  # Tune knows functions by name, one a Ray job
    tuner = Tuner(
        # The trial only waits for its workers, which hold the processors: with a sliver of one it would
        # keep a whole one from them.
        tune.with_resources(run, {"cpu": 0, "memory": 1}),
        param_space={"trial": tune.grid_search([asdict(t) for t in todo])},
        tune_config=TuneConfig(max_concurrent_trials=slots),
        run_config=RunConfig(
            name="adabert",
            storage_path=str(run_dir / "tune"),
            verbose=0,
            failure_config=FailureConfig(
                max_failures=3
            ),  # what a trial had finished stands in its folder
        ),
    )
    names = [f"{stage}.{t.name}" for t in todo for stage in STAGES]

    def look() -> None:
        shares = [_share(run_dir / "progress" / f"{n}.json") for n in names]
        bar(round(sum(shares) * 100 / len(STAGES)), 100 * len(todo), {})

    with polling(look):
        results = tuner.fit()
    if results.errors:
        raise UserError(f"the sweep failed: {str(results.errors[0]).strip().splitlines()[-1]}")
    shutil.rmtree(run_dir / "tune" / "adabert", ignore_errors=True)


def _compressed(job: dict[str, Any], run_dir: str, trial: dict[str, Any], cpus: float) -> float:
    """Run both trainings of a trial, and return its score."""
    room, chosen = DistillationData(parse_job(job), Path(run_dir)), Trial(**trial)
    for stage in STAGES:
        _train(room, chosen, stage, lambda done, total, info: None, cpus=cpus)
    return _record(room, chosen)


def _share(path: Path) -> float:
    try:
        data = json.loads(path.read_text())
        return float(data["done"]) / float(data["total"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _record(room: DistillationData, trial: Trial) -> float:
    """Score a trial's child on the selection split, write its row, and return the score."""
    began = time.perf_counter()
    folder = room.folder / trial.name
    model = compile_child(load_child(room, trial))
    found = score_forward(room, lambda b: logits_of(model, b), "selection")
    structure = read_structure(folder)
    weights_id = file_hash(folder / "child.safetensors")
    row = {
        "run": room.run_dir.name,
        "weights_id": weights_id,
        "method": "adabert",
        "arch_id": structure.id,
        "arch": structure.to_json(),
        "split": "selection",
        "precision": "fp32",
        "metric": room.primary,
        "value": found.values[room.primary],
        "loss": found.loss,
        "examples": found.examples,
        "params": sum(p.numel() for p in model.parameters()),
        "flops": 2.0 * compiled_macs(model.config, flops_length(room)),
        "seconds": time.perf_counter() - began,
        "created_at": datetime.now(UTC),
    }
    write_rows(room.run_dir, "evaluations", [row], f"adabert-{trial.name}")
    outcome = {k: v for k, v in row.items() if k != "created_at"}
    write_json(folder / "outcome.json", {**outcome, **asdict(trial), "setting": trial.setting})
    return float(found.values[room.primary])


def faults(context: RunContext) -> list[str]:
    """Return what AdaBERT would fail on later, each as one message; nothing is trained for it."""
    job, found = context.job, []
    room = DistillationData(job, context.run_dir)
    try:
        _ = room.student_shape
    except UserError as error:
        found.append(str(error))
    asked = job.settings(AdabertSettings)
    if asked.structure is not None:
        if asked.child_epochs == 0:
            found.append("adabert.structure was given with child_epochs = 0: nothing would be trained")
        try:
            parse_structure_setting(asked.structure, 1, asked.nodes, asked.operations)
        except UserError as error:
            found.append(str(error))
    splits = (context.task.train, context.task.selection, *context.task.validation)
    for split in splits:
        for texts in (split.text_a, split.text_b or []):
            empty = next((i for i, t in enumerate(texts) if not t.strip()), None)
            if empty is not None:
                found.append(
                    f"split {split.name}, row {empty}: the text is empty, and a CNN has nothing to "
                    "read there; fill or drop the row"
                )
    if not context.config.layer_heads:
        found.append(
            f"{job.model.name} has no hidden layers, so there is nothing to probe; choose a teacher "
            "with at least one"
        )
    if job.augment.copies and job.augment.method == "mlm":
        given = job.model
        if load_masked_language_model(given.name, given.revision, given.trust_remote_code) is None:
            found.append(no_mlm(job))
    return found


def planned(context: RunContext) -> dict[str, Any]:
    """Return what the sweep would do: trials, steps, rows of text, and sizes of the student."""
    job = context.job
    given, per_epoch = (
        job.settings(AdabertSettings),
        -(-len(context.task.train) // job.settings(AdabertSettings).batch_size),
    )
    shape = DistillationData(job, context.run_dir).student_shape
    most = max(t.layers for t in trials(job))
    sizes = []
    for layers, pick in ((1, min), (most, max)):
        cheap = pick(given.operations, key=lambda o: operation_params(o, given.width))
        structure = Structure(layers, (cheap,) * len(cell_edges(given.nodes)), given.nodes)
        with torch.device("meta"):  # shapes alone
            model = RaycompCnnForSequenceClassification(compiled_config(shape, structure))
        sizes.append(sum(p.numel() for p in model.parameters()))
    candidates = len(given.operations) ** len(cell_edges(given.nodes))
    return {
        "structures": candidates * most,
        "params": sizes,
        "trials": len(trials(job)),
        "search_steps": round(given.epochs * per_epoch) if given.structure is None else 0,
        "child_steps": round(given.child_epochs * per_epoch),
        "rows": len(context.task.train) * (1 + job.augment.copies),
    }


def training_flops(context: RunContext, share: float) -> float:
    """Return about how many FLOPs search and child take: three times the forward pass a step.

    A drawn structure and the child are taken to be the mean over operations and depths.

    Args:
        place: of the job.
        share: mean length of a text over the length that `context` counts FLOPs at.
    """
    job, given = context.job, context.job.settings(AdabertSettings)
    length = flops_length(DistillationData(job, context.run_dir))
    one = sum(operation_macs(o, given.width, length) for o in given.operations) / len(given.operations)
    cell = 2 * one * len(cell_edges(given.nodes)) * share
    beside = {"sampled": 0.0, "contrast": 1.0, "full": len(given.operations) - 1.0}[given.estimator]
    epochs = given.epochs if given.structure is None else 0.0
    search = epochs * (3 + beside * (1 - given.alpha_warmup))
    rows, total = len(context.task.train), 0.0
    for trial in trials(job):
        total += rows * cell * (trial.layers + 1) / 2 * (search + 3 * given.child_epochs)
    return total

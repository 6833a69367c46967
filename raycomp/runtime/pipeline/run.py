"""A run, in order: preflight, teacher, then each method and its deployment. Every stage resumes."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch

from raycomp.config.job import Job
from raycomp.config.lengths import apply_lengths
from raycomp.errors import UserError
from raycomp.methods.base import Deployable, Method
from raycomp.methods.context import RunContext
from raycomp.methods.costs import derive_costs, derive_teacher_costs
from raycomp.methods.lengths import describe_lengths, find_lengths
from raycomp.methods.registry import load_method_class
from raycomp.methods.scoring import score_forward
from raycomp.runtime.cluster import capacity
from raycomp.runtime.cluster import connect as cluster
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import serve_run_files
from raycomp.runtime.cluster.memory import release_memory
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.certified_files import certify_file
from raycomp.runtime.pipeline.deploy import deploy_all
from raycomp.runtime.pipeline.device_certificates import certify_budgets, list_verdicts
from raycomp.runtime.pipeline.device_profiles import record_profiles
from raycomp.runtime.pipeline.handle import RayRun, run_handle
from raycomp.runtime.pipeline.inputs import record_inputs
from raycomp.runtime.pipeline.overview import show_overview
from raycomp.runtime.pipeline.preflight import check, check_budgets
from raycomp.runtime.pipeline.resume import describe_progress, repair_tables
from raycomp.runtime.pipeline.runtime_rows import record_runtimes
from raycomp.runtime.pipeline.teacher_warning import list_teacher_warnings
from raycomp.runtime.pipeline.tracking import track_run
from raycomp.runtime.training.trainer import run_training
from raycomp.storage.environment import describe_environment
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.leftovers import remove_leftovers
from raycomp.storage.lock import held
from raycomp.storage.tables import write_rows
from raycomp.storage.tensors import save_tensors


def run_job(job: Job, storage: Path, progress: Progress) -> Path:
    """Run a job to its end, or resume it where it stopped; return the run directory.

    Args:
        job: The job.
        storage: Directory of run directories.
        progress: Shows bars and lines.

    Raises:
        UserError: The job, the data, the storage or the cluster do not allow the run. Finished work
            stays.
    """
    run_dir = storage.resolve() / job.run_id
    if run_dir.is_symlink():
        raise UserError(
            f"{run_dir} is a symbolic link, but a run needs a directory of its own. Remove the link."
        )
    context = RunContext(job, run_dir)
    # Before anything is written or started.
    check(context)
    is_new = not run_dir.exists()

    with lock_run(run_dir, progress):
        if not is_new:
            progress.say(f"Resuming {job.run_id}: {describe_progress(context)}.")
            remove_leftovers(context.layout)
            repair_tables(context, progress)
        _record_job(context, job)
        show_overview(context, progress)
        _choose_lengths(context, progress)

        owns_cluster = cluster.connect()
        try:
            _run_stages(context, progress)
        finally:
            if owns_cluster:
                ray.shutdown()
    return run_dir


def _record_job(context: RunContext, job: Job) -> None:
    """Write what the run is about, before its first stage: the job as it was given."""
    record_inputs(context)
    write_json(context.layout.job, job.model_dump(mode="json"))
    write_json(context.layout.environment, describe_environment())
    context.record_facts()


def _choose_lengths(context: RunContext, progress: Progress) -> None:
    """Make the methods equally long where the job asks for it; a resumed run has its choice already.

    Raises:
        UserError: A method cannot be made as long or as short as the job asks.
    """
    if context.layout.lengths.exists():
        return
    # The plan needs the lengths of the texts, so this comes after the tokens.
    lengths = find_lengths(context)
    for line in describe_lengths(lengths, context.job.run.methods):
        progress.say(line)
    if lengths:
        write_json(context.layout.lengths, lengths)
        context.job = apply_lengths(context.job, lengths)


def _run_stages(context: RunContext, progress: Progress) -> None:
    """Measure the devices of budgets, train the teacher, then run every method of the job."""
    job = context.job
    _name_idle_gpus(job, progress)
    # With GPUs, the first training worker chooses the precision on its device.
    if not job.train.gpus:
        context.precision(torch.device("cpu"))

    record_profiles(context, progress)
    check_budgets(context)
    is_elastic = 0 < job.train.min_workers < job.train.workers
    with (
        serve_run_files(context.run_dir, progress, elastic=is_elastic),
        track_run(job, context.run_dir),
    ):
        is_scored = context.layout.teacher_score.exists()
        prepare_teacher(context, progress)
        if not is_scored:
            for warning in list_teacher_warnings(context.run_dir):
                progress.say(f"Warning: {warning}")
        for name in job.run.methods:
            _run_method(context, name, progress)
    _remove_working_files(context.layout)


def _remove_working_files(layout: RunLayout) -> None:
    """Remove what Ray Train leaves if a training is interrupted, and models that were measured."""
    for folder in (layout.train_dir, layout.rescued_checkpoint(""), layout.devices.certified):
        shutil.rmtree(folder, ignore_errors=True)
    # Workers that died during this run may have left files, too.
    remove_leftovers(layout)


def _run_method(context: RunContext, name: str, progress: Progress) -> None:
    """Run one method, and deploy its models; a method that is complete is not run again."""
    method = load_method_class(name)()
    run, deploy_bar = run_handle(context, name, progress)
    summary = context.layout.summary(name)

    if not summary.exists():
        deployables = _compress(run.context, method, progress)
        for deployable in deployables:
            if deployable.reason:
                progress.say(deployable.reason)
        release_memory()
        with deploy_bar as update:
            latency_ms = deploy_all(run.context, deployables, update)
        record_runtimes(run.context, deployables)
        _write_costs(context, derive_costs(run.context, method), name)
        # The summary comes last: the method is complete.
        write_json(summary, {**method.summary(run), "teacher_latency_ms": latency_ms})
        method.release()
        release_memory()
    method.after_deployment(run)


def _write_costs(context: RunContext, rows: list[dict[str, Any]], part: str) -> None:
    """Write rows of table `costs`. A teacher that the user gives costs nothing."""
    if rows:
        write_rows(context.run_dir, "costs", rows, part)


def _compress(context: RunContext, method: Method, progress: Progress) -> list[Deployable]:
    """Return the models of a method; those for devices are measured, and searched again if they fail."""

    def compress(narrowed: RunContext) -> list[Deployable]:
        return method.compress(RayRun(narrowed, progress))

    deployables = certify_budgets(context, compress, certify_file, progress.say)
    for line in list_verdicts(deployables):
        progress.say(line)
    return deployables


def _name_idle_gpus(job: Job, progress: Progress) -> None:
    """Say that training does not use the cluster's GPUs, which a user with GPUs does not expect."""
    count = capacity.total_gpus()
    if count and not job.train.gpus:
        noun = "GPU" if count == 1 else "GPUs"
        progress.say(
            f"Training on CPUs, because train.gpus is 0, although the cluster has {count} {noun}. Use "
            "--set train.gpus=1 to train on a GPU."
        )


def prepare_teacher(context: RunContext, progress: Progress) -> None:
    """Fine-tune the teacher unless the model is fine-tuned already, and score it once on each split."""
    layout = context.layout
    if layout.teacher_score.exists():
        return

    # Tokenised here, before several workers would each do it.
    context.tokens("train")
    if not layout.teacher_network.exists():
        _train_teacher(context, progress)
    _write_costs(context, derive_teacher_costs(context), "teacher")

    teacher = context.teacher().eval()
    scores = {}
    for split in ("selection", *(validation.name for validation in context.task.validation)):
        score = score_forward(context, lambda batch: teacher(batch, None).logits, split, "teacher")
        scores[split] = {**score.values, "loss": score.loss, "examples": score.examples}
    write_json(layout.teacher_score, scores)
    release_memory()


def _train_teacher(context: RunContext, progress: Progress) -> None:
    job = context.job
    layout = context.layout
    if context.fine_tuned and job.teacher.mode != "train":
        save_tensors(layout.teacher_network, context.network().state_dict())
        return

    # The driver writes the start weights: the nodes need neither the Hub nor transformers.
    if not layout.teacher_start.exists():
        save_tensors(layout.teacher_start, context.network().state_dict())
    with progress.bar("teacher") as bar:
        run_training("teacher", job, context.run_dir, {}, bar, say=progress.say)
    layout.teacher_start.unlink()


def lock_run(run_dir: Path, progress: Progress) -> contextlib.AbstractContextManager[None]:
    """Lock a run directory. The system frees the lock when this process ends, however it ends."""
    return held(RunLayout(run_dir).lock, f"Run {run_dir.name}", say=progress.say)

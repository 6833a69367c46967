"""The driver: teacher, then what each method needs; each stage once, each resumable."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from raycomp.config.job import Job
from raycomp.data.batches import TrainPlan, collate
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import measure_importance, reorder_by_importance
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.runtime.cluster import capacity
from raycomp.runtime.cluster import connect as cluster
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.cluster.file_server import serve_run_files
from raycomp.runtime.cluster.memory import release_memory
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline import adabert
from raycomp.runtime.pipeline.deploy import deploy, score_network
from raycomp.runtime.pipeline.finetune import finetune
from raycomp.runtime.pipeline.inputs import record_inputs
from raycomp.runtime.pipeline.preflight import check
from raycomp.runtime.pipeline.tracking import track_run
from raycomp.runtime.scoring.deployment_search import delete_outcomes, search_budgets
from raycomp.runtime.scoring.evaluators import start_scoring
from raycomp.runtime.scoring.ledger import missing_parts, record_parts
from raycomp.runtime.training.sampler_client import start_sampler
from raycomp.runtime.training.trainer import run_training
from raycomp.storage.environment import describe_environment
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.lock import held
from raycomp.storage.schemas import SCHEMAS
from raycomp.storage.tables import part_files, read_table
from raycomp.storage.tensors import save_tensors
from raycomp.training.objectives import label_loss

IMPORTANCE_BATCHES = 32


def run_job(job: Job, storage: Path, progress: Progress) -> Path:
    """Run a job to its end, or go on where it stopped; return the run's folder.

    Raises:
        UserError: a mistake in the job, the data or the storage; nothing is left half-written.
    """
    run_dir = storage.resolve() / job.run_id
    if run_dir.is_symlink():
        raise UserError(f"{run_dir} is a link; a run writes into a folder of its own: remove the link")
    context = RunContext(job, run_dir)
    check(context)  # before anything is written or started
    fresh = not run_dir.exists()
    with hold(run_dir):
        if not fresh:
            progress.say(f"found {job.run_id}: {_found(run_dir)}")
            _mend(run_dir, progress)
        record_inputs(context)
        write_json(run_dir / "job.json", job.model_dump(mode="json"))
        write_json(run_dir / "environment.json", describe_environment())
        context.record_facts()
        owned = cluster.connect()
        try:
            _name_idle_gpus(job, progress)
            if not job.train.gpus:  # else the first GPU worker chooses
                context.precision(torch.device("cpu"))
            elastic = 0 < job.train.min_workers < job.train.workers
            with serve_run_files(run_dir, progress, elastic=elastic), track_run(job, run_dir):
                _teacher(context, progress)
                if "yoco" in job.run.methods:
                    _supernet(context, progress)
                    _search(context, progress)
                    finetune(context, progress)
                if "adabert" in job.run.methods:
                    adabert.compress(job, run_dir, progress)
        finally:
            if owned:
                ray.shutdown()
    return run_dir


def _name_idle_gpus(job: Job, progress: Progress) -> None:
    """Say that training leaves the cluster's GPUs alone, which nobody expects who has them."""
    count = capacity.total_gpus()
    if count and not job.train.gpus:
        progress.say(
            f"training uses processors alone: train.gpus = 0, and the cluster has {count} "
            f"GPU{'s' if count > 1 else ''}; --set train.gpus=1 trains on {'them' if count > 1 else 'it'}"
        )


def _teacher(context: RunContext, progress: Progress) -> None:
    """Fine-tune the teacher unless it is given fine-tuned, and score it once on each split."""
    folder = context.run_dir / "teacher"
    if (folder / "score.json").exists():
        return
    job = context.job
    context.tokens("train")  # once, before several workers would each do it
    if not (folder / "network.safetensors").exists():
        if context.fine_tuned and job.teacher.mode != "train":
            save_tensors(folder / "network.safetensors", context.network().state_dict())
        else:
            start = folder / "start.safetensors"
            if not start.exists():  # here alone: the nodes need neither the Hub nor transformers
                save_tensors(start, context.network().state_dict())
            with progress.bar("teacher") as bar:
                run_training("teacher", job, context.run_dir, {}, bar)
            start.unlink()
    teacher = context.teacher().eval()
    figures = {
        split: score_network(context, teacher, split)
        for split in ("selection", *(v.name for v in context.task.validation))
    }
    write_json(folder / "score.json", figures)
    release_memory()


def _supernet(context: RunContext, progress: Progress) -> None:
    """Reorder the teacher's heads and neurons, then train the super-network."""
    folder = context.run_dir / "supernet"
    if (folder / "sampler.json").exists():
        return
    job = context.job
    if not (folder / "start.safetensors").exists():
        with progress.bar("importance"):
            save_tensors(folder / "start.safetensors", _start(context).state_dict())
        release_memory()
    plan = train_plan(job, context.space, context.shape, len(context.tokens("train")))
    plan["sampler"] = build_sampler(job, plan).state_dict()
    plan["actor"] = f"eesng-{context.run_dir.name}"
    data = job.model_dump(mode="json")
    actor = start_sampler(plan["actor"], data, plan, folder / "snapshot.json")
    with progress.bar("super-network") as bar:
        run_training("supernet", job, context.run_dir, plan, bar)
    ray.kill(actor)


def _start(context: RunContext) -> ElasticEncoder:
    """Return the super-network before training: the teacher or the pretrained network, reordered."""
    job = context.job
    model = context.teacher() if job.train.init == "teacher" else context.network()
    if job.space.reorder:
        tokens = context.tokens("train")
        plan = TrainPlan(tokens.lengths, job.train.batch_size, job.run.seed)
        count = min(IMPORTANCE_BATCHES, plan.steps_per_epoch)
        batches = [collate(tokens, plan.rows(i), context.pad_id) for i in range(count)]
        judged = context.teacher().eval()
        found = measure_importance(judged, batches, lambda out, b: label_loss(out, b.labels, b.total))
        reorder_by_importance(model, found)
    return model


def _search(context: RunContext, progress: Progress) -> None:
    """Search every budget through the ledger, then deploy the best of each."""
    job, run_dir = context.job, context.run_dir
    done = run_dir / "deployed.json"
    if done.exists():
        return
    precision = context.chosen_precision()
    weights_id = file_hash(run_dir / "supernet" / "network.safetensors")
    context.tokens("selection")
    ledger, evaluators = start_scoring(job.model_dump(mode="json"), run_dir, weights_id, context.primary)
    with progress.bar("search") as bar:
        outcomes = search_budgets(
            context, ledger, precision, lambda d, t, best: bar(d, t, {"best": best})
        )
    ray.get(ledger.flush.remote())
    for actor in (ledger, *evaluators):
        ray.kill(actor)
    with progress.bar("deploy") as bar:
        latency = deploy(context, outcomes, weights_id, bar)
    scored = read_table(run_dir, "evaluations")
    write_json(
        done,
        {
            "evaluations": int((scored["weights_id"] == weights_id).sum()),
            "dearest": max(o.evaluations for o in outcomes),
            "trials": len(outcomes),
            "teacher_latency_ms": latency,
        },
    )


def hold(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a folder's lock; the system frees it when this process ends, however it ends."""
    return held(run_dir / ".lock", f"run {run_dir.name}")


def _mend(run_dir: Path, progress: Progress) -> None:
    """Check an earlier start's tables; what was moved away is written anew by the stages that made it.

    Raises:
        UserError: a file of a table is torn; it is named, before anything is started.
    """
    tables = {name: read_table(run_dir, name) for name in SCHEMAS}
    lost = missing_parts(run_dir)
    if lost:
        progress.say(f"evaluations lack {', '.join(lost)}: what they held is scored again")
        delete_outcomes(run_dir)
        (run_dir / "deployed.json").unlink(missing_ok=True)
        record_parts(run_dir)
    scored = {path.stem for path in part_files(run_dir, "evaluations")}
    for outcome in run_dir.glob("adabert/*/outcome.json"):
        if f"adabert-{outcome.parent.name}" not in scored:  # its child is there, and is scored again
            progress.say(f"evaluations lack that of {outcome.parent.name}: it is scored again")
            outcome.unlink()
            (run_dir / "adabert" / "deployed.json").unlink(missing_ok=True)
    deployed = set(tables["deployments"]["method"])
    for method, path in (("yoco", "deployed.json"), ("adabert", "adabert/deployed.json")):
        if method not in deployed:
            (run_dir / path).unlink(missing_ok=True)


def _found(run_dir: Path) -> str:
    """Say how far an earlier start of this run came."""
    parts = ["teacher done" if (run_dir / "teacher" / "score.json").exists() else "teacher not done"]
    for path in sorted((run_dir / "progress").glob("*.json")):
        data = read_json(path)
        if path.stem != "teacher":
            parts.append(f"{path.stem} at step {data.get('done', 0):,} of {data.get('total', 0):,}")
    for method, done in (("yoco", "deployed.json"), ("adabert", "adabert/deployed.json")):
        if (run_dir / done).exists():
            parts.append(f"{method} deployed")
    return ", ".join(parts)

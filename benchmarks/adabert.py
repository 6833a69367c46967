"""The effect of a setting of AdaBERT's search: quality and time of the child, without Ray Train.

    raycomp run jobs/quickstart.toml
    python benchmarks/adabert.py jobs/quickstart.toml --teacher runs/quickstart-HASH \
        --set adabert.estimator=full --seeds 0 1 2

Searches and trains children in this process, with the steps and the loop of a run and the teacher of a
finished run. Scores them on the selection split, which settings are chosen on. Appends one JSON line per
seed to OUT/adabert.jsonl. Augmented text and the teacher's outputs are kept in OUT.

`--random N` also trains N random structures of the searched depth and the searched structure, all from
scratch. `--validate` also scores on the validation split: for reports, not for the choice of a setting.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
import zlib
from pathlib import Path
from typing import Any

import torch

from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.methods.adabert.compiler import compile_child
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.preparation import prepare_distillation
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, cell_edges
from raycomp.methods.adabert.training_tasks import AdabertChildTask, AdabertSearchTask
from raycomp.methods.adabert.trials import Trial, list_trials, load_child
from raycomp.methods.base import logits_of
from raycomp.methods.scoring import score_forward
from raycomp.runtime.cluster import connect as cluster
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline.handle import RayRun
from raycomp.storage.files import write_json
from raycomp.training.loop import StepResult, fit
from raycomp.training.seeding import worker_seed

CPU = torch.device("cpu")


def main() -> None:
    """Prepare the data; then search, train and score one child per seed and trial."""
    args = _parse_arguments()
    job = load_job(args.job, ['run.methods=["adabert"]', *args.overrides])
    run_dir = _copy_teacher(job, args.teacher, args.out)
    data = DistillationData(job, run_dir, method="adabert")
    began = time.perf_counter()
    if not data.layout.probe_logits.exists():
        cluster.connect()
        prepare_distillation(RayRun(data, Progress()), data)
        cluster.ray.shutdown()
    preparing_seconds = time.perf_counter() - began

    if args.cost:
        time_estimators(data, args.cost)
        return
    for seed in args.seeds:
        for trial in list_trials(job):
            seeded = Trial(trial.gamma, trial.beta, trial.layers, seed)
            row = search_and_train(data, seeded, args.validate)
            row["preparing"] = round(preparing_seconds, 1)
            if args.random:
                row["random"] = train_random_structures(
                    data, seeded, args.random, row["layers"], args.validate
                )
            row |= {"job": args.job, "set": args.overrides, "note": args.note}
            with (args.out / "adabert.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", help="Job file.")
    parser.add_argument("--teacher", type=Path, required=True, help="Directory of a finished run.")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="Setting: KEY=VALUE."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/adabert"), help="Directory of the results."
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="Seeds of searches and children."
    )
    parser.add_argument("--random", type=int, default=0, help="Number of random structures to train.")
    parser.add_argument("--validate", action="store_true", help="Also score the validation split.")
    parser.add_argument("--cost", type=int, default=0, help="Only time this number of search steps.")
    parser.add_argument("--note", default="", help="Text for the column `note`.")
    return parser.parse_args()


def _copy_teacher(job: Job, teacher_run: Path, out: Path) -> Path:
    """Return the run directory for a task, its augmentation and its teacher, with the teacher in it."""
    key = json.dumps([job.task.model_dump(), job.augment.model_dump(), str(teacher_run.resolve())])
    run_dir = out.resolve() / f"{job.run.name}-{zlib.crc32(key.encode()):08x}"
    if not (run_dir / "teacher").exists():
        shutil.copytree(teacher_run / "teacher", run_dir / "teacher")
        precision = json.loads((teacher_run / "precision.json").read_text())
        write_json(run_dir / "precision.json", precision)
    return run_dir


def time_estimators(data: DistillationData, steps: int) -> None:
    """Time the search step of each estimator, in turns and on the same batches, and print the means."""
    tasks: dict[str, AdabertSearchTask] = {}
    seconds: dict[str, list[float]] = {}
    for name in ("sampled", "contrast", "full"):
        # Without warm-up: during it all estimators run the sampled operation only.
        changes = {"estimator": name, "alpha_warmup": 0.0, "share_kernels": name != "full"}
        settings = data.job.settings(AdabertSettings).model_copy(update=changes)
        job = data.job.model_copy(update={"adabert": settings})
        plan = {"trial": "cost", "gamma": 0.8, "beta": 4.0, "layers": 8, "seed": 0}
        context = DistillationData(job, data.run_dir, method="adabert")
        tasks[name] = AdabertSearchTask(context, plan, device=CPU, reduce=None)
        seconds[name] = []

    tokens = tasks["full"].tokens
    batches = TrainPlan(tokens.lengths, data.job.settings(AdabertSettings).batch_size, data.job.run.seed)
    for i in range(steps):
        batch = collate(tokens, batches.rows(i), data.pad_id)
        for name, task in tasks.items():
            began = time.perf_counter()
            task.step(i, batch)
            seconds[name].append(time.perf_counter() - began)

    full_seconds = statistics.mean(seconds["full"])
    for name, values in seconds.items():
        mean = statistics.mean(values)
        row = {
            "estimator": name,
            "seconds": round(mean, 3),
            "of_full": round(mean / full_seconds, 3),
            "steps": steps,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(row))


def search_and_train(data: DistillationData, trial: Trial, validate: bool) -> dict[str, Any]:
    """Search a structure, train its child, and return the figures of both."""
    shutil.rmtree(data.layout.adabert / trial.name, ignore_errors=True)
    plan = {
        "trial": trial.name,
        "gamma": trial.gamma,
        "beta": trial.beta,
        "layers": trial.layers,
        "seed": trial.seed,
    }
    began = time.perf_counter()
    search = AdabertSearchTask(data, plan, device=CPU, reduce=None)
    search_loss = _fit(search, data)
    search_seconds = time.perf_counter() - began

    distribution = search.model.distribution
    depths = [round(p, 3) for variable, _, p in distribution.probabilities() if variable == "layers"]
    return {
        **train_child(data, trial, plan, validate),
        "search_seconds": round(search_seconds, 1),
        "search_loss": search_loss,
        "gamma": trial.gamma,
        "beta": trial.beta,
        "k_max": trial.layers,
        "seed": trial.seed,
        "entropy": distribution.normalised_entropy(),
        "depth": depths,
    }


def train_child(
    data: DistillationData, trial: Trial, plan: dict[str, Any], validate: bool
) -> dict[str, Any]:
    """Train the child of the structure in the trial's directory, and return its figures."""
    began = time.perf_counter()
    child = AdabertChildTask(data, plan, device=CPU, reduce=None)
    loss = _fit(child, data)
    model = compile_child(load_child(data, trial))

    splits = ["selection"]
    if validate:
        splits += [split.name for split in data.task.validation]
    scores = {
        split: score_forward(data, lambda batch: logits_of(model, batch), split).values[data.primary]
        for split in splits
    }
    return {
        **scores,
        "params": sum(p.numel() for p in model.parameters()),
        "layers": child.model.structure.layers,
        "operations": list(child.model.structure.operations),
        "child_seconds": round(time.perf_counter() - began, 1),
        "child_loss": loss,
    }


def train_random_structures(
    data: DistillationData, trial: Trial, count: int, layers: int, validate: bool
) -> list[dict[str, Any]]:
    """Train the searched structure and `count` random ones from scratch; the searched one is first."""
    rng = random.Random(trial.seed)  # nosec B311  # no secret depends on it
    settings = data.job.settings(AdabertSettings)
    folder = data.layout.adabert / trial.name
    structures = [(folder / "structure.json").read_text()]
    for _ in range(count):
        operations = tuple(rng.choice(settings.operations) for _ in cell_edges(settings.nodes))
        structures.append(Structure(layers, operations, settings.nodes).to_json())

    changed = settings.model_copy(update={"child": "scratch"})
    job = data.job.model_copy(update={"adabert": changed})
    from_scratch = DistillationData(job, data.run_dir, method="adabert")
    rows = []
    for text in structures:
        (folder / "structure.json").write_text(text)
        plan = {"trial": trial.name, "gamma": trial.gamma, "seed": trial.seed}
        rows.append(train_child(from_scratch, trial, plan, validate))
    return rows


def _fit(task: AdabertSearchTask | AdabertChildTask, data: DistillationData) -> float:
    """Run a training task, write its results, and return the mean loss of its last 50 steps."""
    batches = TrainPlan(task.tokens.lengths, task.batch_size, task.data_seed)
    losses: list[float] = []

    def batch_at(index: int) -> Batch:
        return collate(task.tokens, batches.rows(index), task.context.pad_id)

    def report(index: int, result: StepResult, seconds: float) -> None:
        losses.append(float(result.info["loss"]))

    fit(task.step, batch_at, 0, task.num_steps, seed=worker_seed(task.data_seed, rank=0), report=report)
    task.finish()
    return round(statistics.fmean(losses[-50:]), 4)


if __name__ == "__main__":
    main()

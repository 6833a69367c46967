"""The effect of a setting of AdaBERT's search: quality and time of the child, without Ray Train.

    raycomp run jobs/quickstart.toml
    python benchmarks/adabert.py jobs/quickstart.toml --teacher runs/quickstart-HASH \
        --set adabert.estimator=full --seeds 0 1 2

Searches and trains children in this process, with the steps and the loop of a run and the teacher of a
finished run. Scores them on the selection split, which settings are chosen on. Appends one JSON line per
seed to OUT/adabert.jsonl. Augmented text and the teacher's outputs are kept in OUT.

`--validate` also scores on the validation split: for reports, not for the choice of a setting.
`benchmarks/random_cells.py` compares searched structures with random ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.data.batches import TrainPlan, collate
from raycomp.encoder.interface import logits_of
from raycomp.methods.adabert.candidates import load_distribution
from raycomp.methods.adabert.compiler import compile_child
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.finalists import choose_structure
from raycomp.methods.adabert.preparation import prepare_distillation
from raycomp.methods.adabert.search_task import AdabertSearchTask
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.student import Child
from raycomp.methods.adabert.training_tasks import read_structure
from raycomp.methods.adabert.trials import (
    CHILD,
    Trial,
    list_trials,
    search_structure,
    training_plan,
)
from raycomp.methods.scoring import score_forward
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_weights
from raycomp.testing.local_run import LocalRun

CPU = torch.device("cpu")


def main() -> None:
    """Prepare the data; then search, train and score one child per seed and trial."""
    args = _parse_arguments()
    data, preparing_seconds = prepare_data(args.job, args.overrides, args.teacher, args.out)
    if args.cost:
        time_estimators(data, args.cost)
        return
    for seed in args.seeds:
        for trial in list_trials(data.job):
            seeded = Trial(trial.gamma, trial.beta, trial.layers, seed)
            row = search_and_train(data, seeded, args.validate)
            row |= {"preparing": round(preparing_seconds, 1)}
            row |= {"job": args.job, "set": args.overrides, "note": args.note}
            write_line(args.out / "adabert.jsonl", row)


def prepare_data(
    job_file: str, overrides: Sequence[str], teacher_run: Path, out: Path
) -> tuple[DistillationData, float]:
    """Return the data of a job with the teacher of a finished run, and the seconds of its preparation.

    Args:
        job_file: Job file.
        overrides: Settings, KEY=VALUE.
        teacher_run: Directory of the finished run.
        out: Directory that keeps augmented text and the teacher's outputs.
    """
    job = load_job(job_file, ['run.methods=["adabert"]', *overrides])
    run_dir = _copy_teacher(job, teacher_run, out)
    data = DistillationData(job, run_dir, method="adabert")
    began = time.perf_counter()
    if not data.layout.probe_logits.exists():
        prepare_distillation(LocalRun(data), data)
    return data, time.perf_counter() - began


def write_line(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a file of JSON lines, and print it."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


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
        # P_alpha learns in the pass of the weights, as in the paper's form.
        changes = {
            "estimator": name,
            "alpha_warmup": 0.0,
            "share_kernels": name != "full",
            "alpha_updates": 0,
        }
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
    """Search a structure, choose one, train its child, and return the figures of each part."""
    shutil.rmtree(data.layout.adabert / trial.name, ignore_errors=True)
    run = LocalRun(data)
    began = time.perf_counter()
    search_structure(run, data, trial)
    search_seconds = time.perf_counter() - began

    began = time.perf_counter()
    plan = training_plan(data, trial)
    choose_structure(run, data, plan)
    choice_seconds = time.perf_counter() - began

    distribution = load_distribution(data, data.layout.trial(trial.name), trial.layers)
    depths = [round(p, 3) for variable, _, p in distribution.probabilities() if variable == "layers"]
    return {
        **train_child(data, trial.name, plan, validate),
        "search_seconds": round(search_seconds, 1),
        "choice_seconds": round(choice_seconds, 1),
        "gamma": trial.gamma,
        "beta": trial.beta,
        "k_max": trial.layers,
        "seed": trial.seed,
        "entropy": distribution.normalised_entropy(),
        "depth": depths,
    }


def train_child(
    data: DistillationData, name: str, plan: dict[str, Any], validate: bool
) -> dict[str, Any]:
    """Train the child whose structure is in a trial's directory, and return its figures.

    Args:
        data: Data and settings.
        name: Name of the directory.
        plan: Plan of the training.
        validate: Whether the validation splits are scored too.
    """
    began = time.perf_counter()
    LocalRun(data).train(f"{CHILD}.{name}", {**plan, "trial": name})
    seconds = time.perf_counter() - began
    files = data.layout.trial(name)
    child = Child(data.student_shape, read_structure(files))
    load_weights(child, files.child)
    model = compile_child(child.eval())

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
        "layers": child.structure.layers,
        "operations": list(child.structure.operations),
        "child_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()

"""What a choice in AdaBERT's search is worth: quality and time of the child, without Ray Train.

    raycomp run jobs/quickstart.toml
    python benchmarks/adabert.py jobs/quickstart.toml --teacher runs/quickstart-HASH \
        --set adabert.estimator=full --seeds 0 1 2

Searches and trains children in this process (the same steps and loop as on Ray) with the teacher of a
finished run, and scores them on the selection split, which choices are made on. Appends one JSON line
a seed to OUT/adabert.jsonl. Augmented text and the teacher's answers are kept in OUT. `--random N`
also trains N random structures of the searched depth, from scratch as the searched one, and
`--validate` scores everything on the validation split too: for reports, not for choices.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch

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

CPU = torch.device("cpu")


def main() -> None:
    """Parse, prepare, search, train, score, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("--teacher", type=Path, required=True, help="a finished run's folder")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path, default=Path("runs/adabert"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--random", type=int, default=0, help="random structures to compare with")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--cost", type=int, default=0, help="only time so many steps of each estimator")
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    job = load_job(args.job, ['run.methods=["adabert"]', *args.overrides])
    prepared = json.dumps([job.task.model_dump(), job.augment.model_dump(), str(args.teacher.resolve())])
    run_dir = args.out.resolve() / f"{job.run.name}-{abs(hash_of(prepared)):08x}"
    if not (run_dir / "teacher").exists():
        shutil.copytree(args.teacher / "teacher", run_dir / "teacher")
        write_json(run_dir / "precision.json", json.loads((args.teacher / "precision.json").read_text()))
    room = DistillationData(job, run_dir, method="adabert")
    began = time.perf_counter()
    if not (room.layout.probe_logits).exists():
        cluster.connect()
        prepare_distillation(RayRun(room, Progress()), room)
        cluster.ray.shutdown()
    preparing = time.perf_counter() - began
    if args.cost:
        _cost(room, args.cost)
        return
    for seed in args.seeds:
        for trial in list_trials(job):
            point = Trial(trial.gamma, trial.beta, trial.layers, seed)
            row = _point(room, point, args.validate) | {"preparing": round(preparing, 1)}
            if args.random:
                row["random"] = _random(room, point, args.random, row["layers"], args.validate)
            row |= {"job": args.job, "set": args.overrides, "note": args.note}
            with (args.out / "adabert.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row))


def _cost(room: DistillationData, steps: int) -> None:
    """Time the search step of each estimator, in turns, on the same batches."""
    stages, taken = {}, {}
    for name in ("sampled", "contrast", "full"):
        # From the first step on, for while P_alpha waits all estimators run what is drawn alone.
        changes = {"estimator": name, "alpha_warmup": 0.0, "share_kernels": name != "full"}
        given = room.job.settings(AdabertSettings).model_copy(update=changes)
        job = room.job.model_copy(update={"adabert": given})
        plan = {"trial": "cost", "gamma": 0.8, "beta": 4.0, "layers": 8, "seed": 0}
        stages[name] = AdabertSearchTask(
            DistillationData(job, room.run_dir, method="adabert"), plan, device=CPU, reduce=None
        )
        taken[name] = list[float]()
    tokens, pad = stages["full"].tokens, room.pad_id
    plan = TrainPlan(tokens.lengths, room.job.settings(AdabertSettings).batch_size, room.job.run.seed)
    for i in range(steps):
        batch = collate(tokens, plan.rows(i), pad)
        for name, stage in stages.items():
            began = time.perf_counter()
            stage.step(i, batch)
            taken[name].append(time.perf_counter() - began)
    for name, seconds in taken.items():
        ratio = statistics.mean(seconds) / statistics.mean(taken["full"])
        print(json.dumps({"estimator": name, "seconds": round(statistics.mean(seconds), 3),
                          "of_full": round(ratio, 3), "steps": steps,
                          "threads": torch.get_num_threads()}))  # fmt: skip


def hash_of(text: str) -> int:
    """A hash that is the same in every process."""
    import zlib

    return zlib.crc32(text.encode())


def _point(room: DistillationData, trial: Trial, validate: bool) -> dict[str, Any]:
    folder = room.layout.adabert / trial.name
    shutil.rmtree(folder, ignore_errors=True)
    plan = {
        "trial": trial.name, "gamma": trial.gamma, "beta": trial.beta, "layers": trial.layers,
        "seed": trial.seed,
    }  # fmt: skip
    began = time.perf_counter()
    search = AdabertSearchTask(room, plan, device=CPU, reduce=None)
    loss = _fit(search, room)
    searched = time.perf_counter() - began
    theta = search.model.distribution.probabilities()
    found = _child(room, trial, plan, validate)
    return {
        **found, "search_seconds": round(searched, 1), "search_loss": loss,
        "gamma": trial.gamma, "beta": trial.beta, "k_max": trial.layers, "seed": trial.seed,
        "entropy": search.model.distribution.normalised_entropy(),
        "depth": [round(p, 3) for v, _, p in theta if v == "layers"],
    }  # fmt: skip


def _child(room: DistillationData, trial: Trial, plan: dict[str, Any], validate: bool) -> dict[str, Any]:
    began = time.perf_counter()
    child = AdabertChildTask(room, plan, device=CPU, reduce=None)
    loss = _fit(child, room)
    model = compile_child(load_child(room, trial))
    splits = ["selection", *(v.name for v in room.task.validation if validate)]
    values = {
        s: score_forward(room, lambda b: logits_of(model, b), s).values[room.primary] for s in splits
    }
    return {
        **values,
        "params": sum(p.numel() for p in model.parameters()),
        "layers": child.model.structure.layers,
        "operations": list(child.model.structure.operations),
        "child_seconds": round(time.perf_counter() - began, 1),
        "child_loss": loss,
    }


def _random(
    room: DistillationData, trial: Trial, count: int, layers: int, validate: bool
) -> list[dict[str, Any]]:
    """Train random structures from scratch, and the searched one in the same way, first."""
    rng, found = random.Random(trial.seed), []  # nosec B311  # no secret depends on it
    nodes, names = room.job.settings(AdabertSettings).nodes, room.job.settings(AdabertSettings).operations
    folder = room.layout.adabert / trial.name
    searched = (folder / "structure.json").read_text()
    drawn = [
        Structure(layers, tuple(rng.choice(names) for _ in cell_edges(nodes)), nodes).to_json()
        for _ in range(count)
    ]
    scratch = room.job.model_copy(
        update={"adabert": room.job.settings(AdabertSettings).model_copy(update={"child": "scratch"})}
    )
    other = DistillationData(scratch, room.run_dir, method="adabert")
    for text in (searched, *drawn):
        (folder / "structure.json").write_text(text)
        plan = {"trial": trial.name, "gamma": trial.gamma, "seed": trial.seed}
        found.append(_child(other, trial, plan, validate))
    return found


def _fit(stage: AdabertSearchTask | AdabertChildTask, room: DistillationData) -> float:
    plan = TrainPlan(stage.tokens.lengths, stage.batch_size, room.job.run.seed)
    losses: list[float] = []

    def at(index: int) -> Batch:
        return collate(stage.tokens, plan.rows(index), stage.context.pad_id)

    def report(index: int, result: StepResult, seconds: float) -> None:
        losses.append(float(result.info["loss"]))

    fit(stage.step, at, 0, stage.num_steps, seed=room.job.run.seed * 4099, report=report)
    stage.finish()
    return round(sum(losses[-50:]) / len(losses[-50:]), 4)


if __name__ == "__main__":
    main()

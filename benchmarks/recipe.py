"""What a training recipe is worth: super-network quality at equal training tokens, without Ray.

    python benchmarks/recipe.py jobs/yoco_mrpc.toml --set train.distill=none --out runs/recipes

Trains the job's super-network in this process (the same step, sampler and loop as on Ray), then
scores architectures at 0.75, 0.5 and 0.35 of the encoder's parameters (--shares) on the selection
split, and the best of each on the validation split. Appends one JSON line to OUT/recipes.jsonl. The
teacher is trained once per (task, model, teacher) and kept in OUT.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycomp.config.job import Job
from raycomp.config.loader import load_job
from raycomp.data.batches import TrainPlan, collate
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import measure_importance, reorder_by_importance
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import build_sampler, plan_schedule, train_plan
from raycomp.search.moves import fit_to_limit
from raycomp.search.searchers import load_distribution
from raycomp.storage.tensors import load_weights, save_tensors
from raycomp.training.evaluation import predict_logits, score_logits
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import DISTILLATION
from raycomp.training.loop import StepResult, fit
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import LinearDecay, Updater, resolve_precision
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep

CPU = torch.device("cpu")


def main() -> None:
    """Parse, train, score, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--count", type=int, default=12, help="architectures a share")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, 0.35])
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    job = load_job(args.job, args.overrides)
    context = RunContext(job, args.out / job.run_id)
    precision = resolve_precision(job.train.precision, CPU)
    began = time.perf_counter()
    teacher = _teacher(context, job, args.out, precision)
    taught = time.perf_counter() - began
    base = _value(context, teacher, None, "selection", precision)[0]
    base_validation = _validation(context, teacher, None, precision)
    began = time.perf_counter()
    model, state, tokens = _supernet(context, job, teacher, precision)
    seconds = time.perf_counter() - began
    found = _shares(context, model, state, args.shares, args.count, precision, base_validation)
    row = {
        "job": args.job,
        "set": args.overrides,
        "note": args.note,
        "teacher": base,
        "teacher_validation": base_validation,
        "teacher_seconds": round(taught, 1),
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "shares": found,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "recipes.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


def _teacher(context: RunContext, job: Job, out: Path, precision: str) -> ElasticEncoder:
    key = json.dumps([job.task.model_dump(), job.model.model_dump(), job.teacher.model_dump()])
    name = hashlib.sha256(f"{key}{job.run.seed}".encode()).hexdigest()[:8]
    path, model = out / f"teacher-{name}.safetensors", context.network()
    if path.exists():
        load_weights(model, path)
        return model.eval()
    settings, tokens = job.teacher, context.tokens("train")
    plan = TrainPlan(tokens.lengths, settings.batch_size, job.run.seed)
    total = round(settings.epochs * plan.steps_per_epoch)
    model.set_dropout(settings.dropout)
    updater = Updater(
        model,
        LinearDecay(settings.learning_rate, settings.warmup, (0, total)),
        weight_decay=settings.weight_decay,
        clip=1.0,
    )
    step = FinetuneStep(model, updater, precision=precision, device=CPU)
    fit(step, _at(context, plan), 0, total, seed=job.run.seed * 4099, report=_silent)
    save_tensors(path, model.state_dict())
    return model.eval()


def _supernet(
    context: RunContext, job: Job, teacher: ElasticEncoder, precision: str
) -> tuple[ElasticEncoder, dict[str, Any], int]:
    settings, tokens = job.train, context.tokens("train")
    model = context.network()
    if settings.init == "teacher":
        model.load_state_dict(teacher.state_dict())
    plan = TrainPlan(tokens.lengths, settings.batch_size, job.run.seed)
    if job.space.reorder:
        batches = [collate(tokens, plan.rows(i), context.pad_id) for i in range(32)]
        found = measure_importance(teacher, batches, lambda out, b: label_loss(out, b.labels, b.total))
        reorder_by_importance(model, found)
    agreed = train_plan(job, context.space, context.shape, len(tokens))
    sampler, schedule = build_sampler(job, agreed), plan_schedule(agreed)
    phase_starts: tuple[int, ...] = (0, schedule.total)
    if settings.schedule == "phase":
        firsts = {schedule.first_step(i) for i in range(len(schedule.phases))}
        phase_starts = tuple(sorted({*firsts, schedule.total}))
    model.set_dropout(settings.dropout)
    model.embeddings.word.weight.requires_grad_(not settings.freeze_embeddings)
    updater = SliceUpdater(
        model,
        LinearDecay(settings.learning_rate, settings.warmup, phase_starts),
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        reset_at=phase_starts if settings.schedule == "phase" else (),
    )
    hidden, seen = settings.distill == "hidden", [0]

    def teach(batch: Any) -> ElasticOutput:
        return teacher(batch, None, hidden=hidden)

    step = SupernetStep(
        model,
        sampler,
        updater,
        teacher=None if settings.distill == "none" else teach,
        objective=DISTILLATION[settings.distill],
        precision=precision,
        device=CPU,
    )

    def report(index: int, result: StepResult, seconds: float) -> None:
        seen[0] += result.tokens
        if index % 100 == 0:
            print(index, schedule.total, round(result.loss, 4), round(seconds, 3), flush=True)

    fit(step, _at(context, plan), 0, schedule.total, seed=job.run.seed * 4099, report=report)
    return model.eval(), sampler.state_dict(), seen[0]


def _shares(
    context: RunContext,
    model: ElasticEncoder,
    state: dict[str, Any],
    shares: list[float],
    count: int,
    precision: str,
    teacher: float,
) -> dict[str, Any]:
    costs, rng = context.costs, np.random.default_rng(7)
    theta, joint = load_distribution(context.space, state)

    def cost(arch: Architecture) -> float:
        return float(costs.cost("encoder_params", arch))

    result: dict[str, Any] = {"full": _validation(context, model, None, precision) / teacher}
    for share in shares:
        limit = share * cost(context.space.largest())
        archs: dict[Architecture, tuple[float, float]] = {}
        tries = 0
        while len(archs) < count and tries < 20 * count:
            tries += 1
            uniform = len(archs) % 2 == 0
            drawn = (
                context.space.sample_uniform(rng)
                if uniform
                else context.space.decode(theta.sample(rng), joint)
            )
            arch = fit_to_limit(drawn, context.space, cost, limit, rng)
            if arch is not None and arch not in archs:
                archs[arch] = _value(context, model, arch, "selection", precision)
        best = max(archs, key=lambda a: (archs[a][0], -archs[a][1]))
        by_loss = min(archs, key=lambda a: archs[a][1])
        result[str(share)] = {
            "mean": round(statistics.mean(v for v, _ in archs.values()), 4),
            "best": round(archs[best][0], 4),
            "loss": round(statistics.mean(x for _, x in archs.values()), 4),
            "kept": round(_validation(context, model, best, precision) / teacher, 4),
            "kept_by_loss": round(_validation(context, model, by_loss, precision) / teacher, 4),
            "kept_mean_of_4": round(
                statistics.mean(_validation(context, model, a, precision) for a in list(archs)[:4])
                / teacher,
                4,
            ),
            "arch": best.to_json(),
        }
    return result


def _value(
    context: RunContext, model: ElasticEncoder, arch: Architecture | None, split: str, precision: str
) -> tuple[float, float]:
    tokens = context.tokens(split)
    logits = predict_logits(
        lambda b: model(b, arch).logits,
        tokens,
        pad_id=context.pad_id,
        max_tokens=8192,
        precision=precision,
        device=CPU,
    )
    found = score_logits(context.metrics, tokens, logits)
    return found.values[context.primary], found.loss


def _validation(
    context: RunContext, model: ElasticEncoder, arch: Architecture | None, precision: str
) -> float:
    names = [v.name for v in context.task.validation]
    return statistics.mean(_value(context, model, arch, n, precision)[0] for n in names)


def _at(context: RunContext, plan: TrainPlan) -> Any:
    tokens = context.tokens("train")
    return lambda i: collate(tokens, plan.rows(i), context.pad_id)


def _silent(index: int, result: StepResult, seconds: float) -> None:
    if index % 50 == 0:
        print("teacher", index, round(result.loss, 4), round(seconds, 3), flush=True)


if __name__ == "__main__":
    main()

"""Quality of a super-network at equal training tokens, for one training recipe, without Ray.

    python -m benchmarks.recipe jobs/yoco_mrpc.toml --set train.distill=none --out runs/recipes

Trains the job's super-network in this process, with the same step, sampler and loop as on Ray. Then
scores architectures at 0.75, 0.5 and 0.35 of the encoder's parameters (--shares) on the selection
split, and the best of each on the validation split. Appends one JSON line to OUT/recipes.jsonl. The
teacher is trained once for each (task, model, teacher) and kept in OUT. Takes as long as the job's
training.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import make_parser
from benchmarks.workload import evaluate_split
from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import measure_importance, reorder_by_importance
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.context import RunContext
from raycomp.methods.supernet_start import importance_batches
from raycomp.methods.teacher_length import count_teacher_steps
from raycomp.methods.yoco.plan import build_sampler, plan_schedule, train_plan
from raycomp.methods.yoco.schedule import Schedule
from raycomp.search.distribution import load_distribution
from raycomp.search.moves import fit_to_limit
from raycomp.storage.tensors import load_weights, save_tensors
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import load_objective
from raycomp.training.learning_rates import choose_learning_rate, constant_share
from raycomp.training.loop import StepResult, fit
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import LinearDecay, Updater, resolve_precision
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep

CPU = torch.device("cpu")

# Number of architectures whose validation scores are averaged.
NUM_VALIDATED = 4

# Architecture -> (score, loss) on the selection split.
Scores = dict[Architecture, tuple[float, float]]


def main() -> None:
    """Train, score, and append a line."""
    parser = make_parser(__doc__)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--count", type=int, default=12, help="architectures of each share")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, 0.35])
    parser.add_argument("--note", default="")
    args = parser.parse_args()

    job = load_job(args.job, args.overrides)
    context = RunContext(job, args.out / job.run_id)
    recipe = Recipe(context, resolve_precision(job.train.precision, CPU))

    started = time.perf_counter()
    teacher = recipe.train_teacher(args.out)
    teacher_seconds = time.perf_counter() - started
    teacher_validation = recipe.validate(teacher, None)

    started = time.perf_counter()
    model, sampler_state, num_tokens = recipe.train_supernet(teacher)
    seconds = time.perf_counter() - started

    shares: dict[str, Any] = {"full": recipe.validate(model, None) / teacher_validation}
    rng = np.random.default_rng(7)
    for share in args.shares:
        scores = recipe.score_share(model, sampler_state, share, args.count, rng)
        shares[str(share)] = recipe.summarise_share(model, scores, teacher_validation)

    row = {
        "job": args.job,
        "set": args.overrides,
        "note": args.note,
        "teacher": recipe.score(teacher, None)[0],
        "teacher_validation": teacher_validation,
        "teacher_seconds": round(teacher_seconds, 1),
        "seconds": round(seconds, 1),
        "tokens": num_tokens,
        "shares": shares,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "recipes.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


class Recipe:
    """Trains and scores the networks of one job in this process.

    Args:
        context: Context of the job.
        precision: "fp32" or "bf16".
    """

    def __init__(self, context: RunContext, precision: str) -> None:
        self.context = context
        self.job = context.job
        self.precision = precision

    def train_teacher(self, folder: Path) -> ElasticEncoder:
        """Return the teacher; load it if an earlier call with equal settings saved it in `folder`."""
        model = self.context.network()
        path = folder / f"teacher-{self._teacher_key()}.safetensors"
        if path.exists():
            load_weights(model, path)
            return model.eval()

        settings = self.job.teacher
        lengths = self.context.tokens("train").lengths
        plan = TrainPlan(lengths, settings.batch_size, self.job.run.seed)
        num_steps = count_teacher_steps(settings, len(lengths), self.context.task.num_labels)
        model.set_dropout(settings.dropout)
        updater = Updater(
            model,
            LinearDecay(settings.learning_rate, settings.warmup, (0, num_steps)),
            weight_decay=settings.weight_decay,
            clip=1.0,
        )
        step = FinetuneStep(model, updater, precision=self.precision, device=CPU)
        fit(
            step,
            self._batch_maker(plan),
            0,
            num_steps,
            seed=self.job.run.seed * 4099,
            report=_print_every("teacher", 50),
        )
        save_tensors(path, model.state_dict())
        return model.eval()

    def _teacher_key(self) -> str:
        """Return a hash of all settings that a teacher depends on."""
        sections = [self.job.task, self.job.model, self.job.teacher]
        key = json.dumps([section.model_dump() for section in sections])
        return hashlib.sha256(f"{key}{self.job.run.seed}".encode()).hexdigest()[:8]

    def train_supernet(self, teacher: ElasticEncoder) -> tuple[ElasticEncoder, dict[str, Any], int]:
        """Train the super-network; return it, the state of its sampler, and the tokens of all steps."""
        settings = self.job.train
        tokens = self.context.tokens("train")
        plan = TrainPlan(tokens.lengths, settings.batch_size, self.job.run.seed)

        model = self.context.network()
        if settings.init == "teacher":
            model.load_state_dict(teacher.state_dict())
        if self.job.space.reorder:
            importance = measure_importance(
                teacher,
                importance_batches(self.context),
                lambda out, batch: label_loss(out, batch.labels, batch.total),
            )
            reorder_by_importance(model, importance)
        model.set_dropout(settings.dropout)
        model.embeddings.word.weight.requires_grad_(not settings.freeze_embeddings)

        agreed = train_plan(self.job, self.context.space, self.context.shape, len(tokens))
        sampler = build_sampler(self.job, agreed)
        schedule = plan_schedule(agreed)
        step = self.make_step(model, teacher, sampler, schedule)

        num_tokens = 0
        print_step = _print_every("super-network", 100)

        def report(index: int, result: StepResult, seconds: float) -> None:
            nonlocal num_tokens
            num_tokens += result.tokens
            print_step(index, result, seconds)

        fit(
            step,
            self._batch_maker(plan),
            0,
            schedule.total,
            seed=self.job.run.seed * 4099,
            report=report,
        )
        return model.eval(), sampler.state_dict(), num_tokens

    def make_step(
        self, model: ElasticEncoder, teacher: ElasticEncoder, sampler: Any, schedule: Schedule
    ) -> SupernetStep:
        """Return the training step of a super-network."""
        settings = self.job.train
        decay_starts: tuple[int, ...] = (0, schedule.total)
        if settings.schedule == "phase":
            first_steps = {schedule.first_step(i) for i in range(len(schedule.phases))}
            decay_starts = tuple(sorted({*first_steps, schedule.total}))

        objective = load_objective(settings.distill)

        def teacher_output(batch: Batch) -> ElasticOutput:
            return teacher(batch, None, hidden=objective.needs_hidden)

        return SupernetStep(
            model,
            sampler,
            SliceUpdater(
                model,
                LinearDecay(
                    choose_learning_rate(settings.learning_rate, model.config.hidden_size),
                    settings.warmup,
                    decay_starts,
                    constant_share(settings.schedule),
                ),
                weight_decay=settings.weight_decay,
                clip=settings.clip,
                reset_at=decay_starts if settings.schedule == "phase" else (),
            ),
            teacher=teacher_output if objective.needs_teacher else None,
            objective=objective,
            precision=self.precision,
            device=CPU,
        )

    def score_share(
        self,
        model: ElasticEncoder,
        sampler_state: dict[str, Any],
        share: float,
        count: int,
        rng: np.random.Generator,
    ) -> Scores:
        """Score up to `count` architectures fitted to a share of the encoder's parameters.

        Half of them are uniform samples; the others are from the learned architecture distribution.
        """
        space = self.context.space
        distribution, joint = load_distribution(space, sampler_state)

        def cost(arch: Architecture) -> float:
            return float(self.context.costs.cost("encoder_params", arch))

        limit = share * cost(space.largest())
        scores: Scores = {}
        for _ in range(20 * count):
            if len(scores) == count:
                break
            if len(scores) % 2 == 0:
                sample = space.sample_uniform(rng)
            else:
                sample = space.decode(distribution.sample(rng), joint)
            arch = fit_to_limit(sample, space, cost, limit, rng)
            if arch is not None and arch not in scores:
                scores[arch] = self.score(model, arch)
        return scores

    def summarise_share(
        self, model: ElasticEncoder, scores: Scores, teacher_validation: float
    ) -> dict[str, Any]:
        """Return means on the selection split, and the retention on the validation splits."""
        best = max(scores, key=lambda arch: (scores[arch][0], -scores[arch][1]))
        best_by_loss = min(scores, key=lambda arch: scores[arch][1])
        validations = [self.validate(model, arch) for arch in list(scores)[:NUM_VALIDATED]]
        return {
            "mean": round(statistics.mean(value for value, _ in scores.values()), 4),
            "best": round(scores[best][0], 4),
            "loss": round(statistics.mean(loss for _, loss in scores.values()), 4),
            "kept": round(self.validate(model, best) / teacher_validation, 4),
            "kept_by_loss": round(self.validate(model, best_by_loss) / teacher_validation, 4),
            "kept_mean_of_4": round(statistics.mean(validations) / teacher_validation, 4),
            "arch": best.to_json(),
        }

    def score(
        self, model: ElasticEncoder, arch: Architecture | None, split: str = "selection"
    ) -> tuple[float, float]:
        """Return the primary metric and the loss of an architecture; None is the full network."""
        return evaluate_split(
            self.context, lambda batch: model(batch, arch).logits, split, self.precision
        )

    def validate(self, model: ElasticEncoder, arch: Architecture | None) -> float:
        """Return the mean of the primary metric over the validation splits."""
        splits = [split.name for split in self.context.task.validation]
        return statistics.mean(self.score(model, arch, split)[0] for split in splits)

    def _batch_maker(self, plan: TrainPlan) -> Callable[[int], Batch]:
        """Return a function from a step to its training batch."""
        tokens = self.context.tokens("train")
        return lambda index: collate(tokens, plan.rows(index), self.context.pad_id)


def _print_every(name: str, interval: int) -> Callable[[int, StepResult, float], None]:
    """Return a reporter that prints the loss of each `interval`-th step."""

    def report(index: int, result: StepResult, seconds: float) -> None:
        if index % interval == 0:
            print(name, index, round(result.loss, 4), round(seconds, 3), flush=True)

    return report


if __name__ == "__main__":
    main()

"""What is trained, as stages that `trainer` runs on every rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raycomp.config.job import Job
from raycomp.data.batches import Batch
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.plan import plan_schedule
from raycomp.runtime.cluster.connect import ray
from raycomp.runtime.training.adabert_tasks import AdabertChildTask, AdabertSearchTask
from raycomp.runtime.training.sampler_client import ActorSampler, describe_missing_ranks
from raycomp.runtime.training.training_task import PlainTask, TrainingTask
from raycomp.storage.files import write_json
from raycomp.storage.tensors import save_tensors
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.hints import DISTILLATION
from raycomp.training.loop import TrainStep
from raycomp.training.optimizers import AllReduce, LinearDecay, Updater
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep


class _OnTrainText(PlainTask):
    """What both stages read: the training split in batches."""

    def _read(self, context: RunContext, batch_size: int) -> None:
        self.tokens = context.tokens("train")
        self.pad_id = context.pad_id
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(self.tokens) // batch_size)


class TeacherTask(_OnTrainText):
    """Fine-tuning of the full network."""

    method = "teacher"

    def __init__(
        self,
        job: Job,
        run_dir: Path,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        context = RunContext(job, run_dir)
        settings = job.teacher
        self._read(context, settings.batch_size)
        self.total = max(1, round(settings.epochs * self.steps_per_epoch))
        self.model = context.network(run_dir / "teacher" / "start.safetensors").to(device)
        self.model.set_dropout(settings.dropout)
        self.updater = Updater(
            self.model,
            LinearDecay(settings.learning_rate, settings.warmup, (0, self.total)),
            weight_decay=settings.weight_decay,
            clip=1.0,
            reduce=reduce,
        )
        precision = context.precision(device)
        self.step: TrainStep = FinetuneStep(self.model, self.updater, precision=precision, device=device)
        self._run_dir = run_dir

    def finish(self) -> None:
        """Write the teacher's weights."""
        save_tensors(self._run_dir / "teacher" / "network.safetensors", self.model.state_dict())


class SupernetTask(_OnTrainText):
    """Training of the super-network under EE-SNG."""

    method = "yoco"

    def __init__(
        self,
        job: Job,
        run_dir: Path,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        context = RunContext(job, run_dir)
        settings = job.train
        schedule = plan_schedule(plan)
        self._read(context, settings.batch_size)
        self.total = schedule.total
        self.model = context.network(run_dir / "supernet" / "start.safetensors").to(device)
        self.model.set_dropout(settings.dropout)
        self.model.embeddings.word.weight.requires_grad_(not settings.freeze_embeddings)
        phase_starts: tuple[int, ...] = (0, schedule.total)
        if settings.schedule == "phase":
            firsts = [schedule.first_step(i) for i in range(len(schedule.phases))]
            phase_starts = tuple(sorted({*firsts, schedule.total}))
        self.updater = SliceUpdater(
            self.model,
            LinearDecay(settings.learning_rate, settings.warmup, phase_starts),
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            reset_at=phase_starts if settings.schedule == "phase" else (),
            reduce=reduce,
        )
        self._context, self._device, self._settings = context, device, settings
        self._run_dir, self._plan, self._schedule = run_dir, plan, schedule
        self._precision = context.precision(device)

    def begin(
        self, attempt: str, rank: int, world: int, start: int, state: dict[str, Any] | None
    ) -> None:
        """Find the actor, open the attempt there, and roll theta back to the checkpoint's."""
        super().begin(attempt, rank, world, start, state)
        actor = ray.get_actor(self._plan["actor"])
        if rank == 0:
            sampler = state["sampler"] if state else self._plan["sampler"]
            timeout = self._settings.barrier_seconds
            ray.get(actor.begin.remote(attempt, world, start, sampler, timeout))
        self._sampler = ActorSampler(actor, attempt, rank)
        self.step: TrainStep = SupernetStep(
            self.model,
            self._sampler,
            self.updater,
            teacher=self._teacher(),
            objective=DISTILLATION[self._settings.distill],
            precision=self._precision,
            device=self._device,
        )

    def _teacher(self) -> Any:
        if self._settings.distill == "none":
            return None
        teacher = self._context.teacher().to(self._device).eval().requires_grad_(False)
        hidden = DISTILLATION[self._settings.distill].needs_hidden

        def forward(batch: Batch) -> ElasticOutput:
            return teacher(batch, None, hidden=hidden)

        return forward

    def state(self, step: int) -> dict[str, Any]:
        """Return the sampler's state at this step."""
        return {"sampler": self._sampler.state(step)}

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        """Return theta before this step as rows."""
        return [
            {"run": self._run_dir.name, "step": step, "variable": v, "choice": c, "probability": p}
            for v, c, p in self._sampler.probabilities(step)
        ]

    def is_phase_start(self, step: int) -> bool:
        """Return whether a phase begins with a step."""
        return step == self._schedule.first_step(self._schedule.index_at(step))

    def describe_failed_step(self, step: int) -> str:
        """Name the ranks that gave the sampler no sign of this step; all others where it says nothing."""
        try:
            ranks = self._sampler.missing(step)
        except ray.exceptions.RayError:
            ranks = []
        return describe_missing_ranks(ranks) if ranks else super().describe_failed_step(step)

    def finish(self) -> None:
        """Write the trained network and the sampler."""
        folder = self._run_dir / "supernet"
        save_tensors(folder / "network.safetensors", self.model.state_dict())
        write_json(folder / "sampler.json", self._sampler.state(self.total))


STAGES: dict[str, Callable[..., TrainingTask]] = {
    "teacher": TeacherTask,
    "supernet": SupernetTask,
    "adabert-search": AdabertSearchTask,
    "adabert-child": AdabertChildTask,
}

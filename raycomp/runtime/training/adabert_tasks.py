"""AdaBERT's two trainings, as stages: the search of the parent graph, and the child."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raycomp.config.job import Job
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.step import ChildStep, SearchStep, cosine_rate
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child, Parent, Student
from raycomp.runtime.training.distillation_data import DistillationData
from raycomp.runtime.training.training_task import PlainTask
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.training.loop import TrainStep
from raycomp.training.optimizers import AllReduce, JointUpdater, Updater


class SearchedGraph(nn.Module):
    """The parent's weights and P_alpha, so that one checkpoint holds both."""

    def __init__(self, parent: Parent, distribution: Distribution) -> None:
        super().__init__()
        self.parent = parent
        self.distribution = distribution


class _StudentStage(PlainTask):
    """What both trainings share: the augmented text, the teacher's answers, and one trial's folder."""

    method = "adabert"

    def _open(self, job: Job, run_dir: Path, plan: dict[str, Any]) -> None:
        self.room = DistillationData(job, run_dir)
        self.trial = self.room.folder / plan["trial"]
        self.tokens = self.room.augmented_tokens
        self.pad_id = self.room.pad_id
        self.batch_size = job.settings(AdabertSettings).batch_size
        # An epoch is one over the given rows, whatever augmentation adds: runs stay comparable.
        self.steps_per_epoch = -(-len(self.room.tokens("train")) // self.batch_size)
        torch.manual_seed(plan["seed"])

    def _factorise(self, student: Student) -> None:
        teacher = self.room.teacher().embeddings
        offset = self.room.config.position_offset
        student.embedding.factorise(
            teacher.word.weight.detach(), teacher.position.weight.detach()[offset:]
        )


class AdabertSearchTask(_StudentStage):
    """Weights and P_alpha of the parent graph, together."""

    def __init__(
        self,
        job: Job,
        run_dir: Path,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Make the trial `plan` names: trial, seed, gamma, beta, layers."""
        self._open(job, run_dir, plan)
        settings, shape = job.settings(AdabertSettings), self.room.student_shape
        self.total = max(1, round(settings.epochs * self.steps_per_epoch))
        parent = Parent(
            shape, plan["layers"], settings.nodes, settings.operations, settings.share_kernels
        )
        parent.dropout = settings.dropout
        self._factorise(parent)
        distribution = Distribution(plan["layers"], settings.nodes, settings.operations)
        self.model = SearchedGraph(parent, distribution).to(device)
        alpha = Updater(
            distribution,
            lambda step: settings.alpha_learning_rate,
            weight_decay=settings.alpha_weight_decay,
            clip=float("inf"),
            optimizer=functools.partial(torch.optim.Adam, betas=(0.5, 0.999)),
        )
        weights = weights_updater(parent, settings, self.total)
        self.updater = JointUpdater([weights, alpha], reduce)
        length = shape.max_positions
        self.step: TrainStep = SearchStep(
            parent,
            distribution,
            self.updater,
            teacher_outputs=self.room.answers,
            distillation=self.room.distillation_loss(plan["gamma"]),
            op_costs=operation_costs(settings.operations, shape.width, length, settings.normalisation).to(
                device
            ),
            beta=plan["beta"],
            estimator=settings.estimator,
            supervised_depths=settings.supervise,
            alpha_warmup_steps=math.ceil(settings.alpha_warmup * self.total),
            total_steps=self.total,
            seed=plan["seed"],
            precision=self.room.precision(device),
            device=device,
        )

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        """Return P_alpha as rows."""
        run = self.room.run_dir.name
        return [
            {"run": run, "step": step, "variable": v, "choice": c, "probability": p}
            for v, c, p in self.model.distribution.probabilities()
        ]

    def finish(self) -> None:
        """Write the parent's weights, and the argmax of P_alpha."""
        save_tensors(self.trial / "parent.safetensors", self.model.parent.unshared_weights())
        best = self.model.distribution.most_likely()
        write_json(self.trial / "structure.json", json.loads(best.to_json()))


class AdabertChildTask(_StudentStage):
    """The searched structure alone."""

    def __init__(
        self,
        job: Job,
        run_dir: Path,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Make the child of the trial that `plan` names: trial, seed, gamma."""
        self._open(job, run_dir, plan)
        settings = job.settings(AdabertSettings)
        self.total = max(1, round(settings.child_epochs * self.steps_per_epoch))
        self.model = Child(self.room.student_shape, read_structure(self.trial))
        if settings.child == "inherited":
            trained = load_tensors(self.trial / "parent.safetensors")
            self.model.load_state_dict({k: trained[k] for k in self.model.state_dict()})
        else:
            self._factorise(self.model)
        self.model.dropout = settings.dropout
        self.model.to(device)
        self.updater = weights_updater(self.model, settings, self.total, reduce)
        self.step: TrainStep = ChildStep(
            self.model,
            self.updater,
            teacher_outputs=self.room.answers,
            distillation=self.room.distillation_loss(plan["gamma"]),
            precision=self.room.precision(device),
            device=device,
        )

    def finish(self) -> None:
        """Write the child's weights."""
        save_tensors(self.trial / "child.safetensors", self.model.state_dict())


def read_structure(trial: Path) -> Structure:
    """Return the structure that a trial's search found."""
    return Structure.from_json((trial / "structure.json").read_text())


def weights_updater(
    model: nn.Module, settings: AdabertSettings, total: int, reduce: AllReduce | None = None
) -> Updater:
    """Return the updater of a student's weights: SGD with momentum (the paper's) or AdamW."""
    # Not fused: operations join when they are first drawn, and fused SGD wants all momenta at once.
    sgd = functools.partial(torch.optim.SGD, momentum=0.9)
    return Updater(
        model,
        lambda step: cosine_rate(settings.learning_rate, settings.final_learning_rate, total, step),
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        reduce=reduce,
        optimizer=functools.partial(sgd, lr=settings.learning_rate)
        if settings.optimizer == "sgd"
        else None,
    )

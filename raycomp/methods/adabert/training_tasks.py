"""AdaBERT's training tasks of children: a round of finalists, and the child that is deployed."""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from raycomp.data.batches import Batch
from raycomp.methods.adabert.child_step import ChildStep, cosine_rate
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child, Student
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.files import read_json
from raycomp.storage.method_layout import TrialLayout
from raycomp.storage.revision import FIRST_REVISION
from raycomp.storage.tensors import load_tensors, load_weights, save_tensors
from raycomp.training.loop import StepResult
from raycomp.training.optimizers import AllReduce, JointUpdater, Updater


class CnnTask(TrainingTask):
    """What the tasks share: the augmented text, the teacher's outputs, and the paths of one trial."""

    def build(self) -> None:
        """Read the data. The plan has trial, seed and gamma."""
        self.method = "adabert"
        self.data = DistillationData.of(self.context)
        self.trial = self.data.layout.trial(self.plan["trial"])
        self.settings = self.context.job.settings(AdabertSettings)
        self.tokens = self.data.augmented_tokens
        self.batch_size = self.settings.batch_size
        # An epoch is one pass over the given rows, however many rows augmentation adds. Runs with and
        # without augmentation then take the same number of steps.
        self.steps_per_epoch = math.ceil(len(self.data.tokens("train")) / self.batch_size)
        torch.manual_seed(self.plan["seed"])

    @property
    def data_seed(self) -> int:
        """Seed of the order of batches and of dropout: each seed of `adabert.seeds` has its own."""
        if self.context.revision == FIRST_REVISION:
            return super().data_seed
        return int(self.plan["seed"])

    def factorise_embedding(self, student: Student) -> None:
        """Start the student's embedding from a low-rank factorisation of the teacher's."""
        embeddings = self.data.teacher().embeddings
        offset = self.data.config.position_offset
        student.embedding.factorise(
            embeddings.word.weight.detach(), embeddings.position.weight.detach()[offset:]
        )

    def _start_child(self, structure: Structure, weights: Path | None) -> Child:
        """Return a child before its training.

        Args:
            structure: Its structure.
            weights: File with its weights after an earlier training. None: the weights are the parent's,
                or new ones where the job says so.
        """
        child = Child(self.data.student_shape, structure)
        if weights is not None:
            load_weights(child, weights)
        elif self.settings.child == "inherited":
            trained = load_tensors(self.trial.parent)
            child.load_state_dict({key: trained[key] for key in child.state_dict()})
        else:
            self.factorise_embedding(child)
        child.dropout = self.settings.dropout
        return child.to(self.device)

    def _child_step(self, child: Child) -> ChildStep:
        """Return the training step of a child, whose learning rate falls over all steps."""
        return ChildStep(
            child,
            weights_updater(child, self.settings, self.num_steps, self.reduce),
            teacher_outputs=self.data.teacher_outputs,
            distillation=self.data.distillation_loss(self.plan["gamma"]),
            precision=self.data.precision(self.device),
            device=self.device,
        )


class AdabertRoundTask(CnnTask):
    """A round of finalists: each is a network of its own, and all read the same batches."""

    def build(self) -> None:
        """Build the finalists; the plan has trial, seed, gamma, round, and their structures ("archs")."""
        super().build()
        self.num_steps = max(1, round(self.settings.finalist_epochs * self.steps_per_epoch))
        number = int(self.plan["round"])

        self._children = []
        for text in self.plan["archs"]:
            structure = Structure.from_json(text)
            weights = self.trial.finalist(number - 1, structure.id) if number else None
            self._children.append(self._start_child(structure, weights))
        self.model = nn.ModuleList(self._children)
        steps = [self._child_step(child) for child in self._children]
        self.updater = JointUpdater([step.updater for step in steps])
        self.step = RoundStep(steps)

    def finish(self) -> None:
        """Write the weights of each finalist."""
        for child in self._children:
            path = self.trial.finalist(int(self.plan["round"]), child.structure.id)
            save_tensors(path, child.state_dict())


class RoundStep:
    """The step of several children on one batch, one after the other."""

    def __init__(self, steps: Sequence[ChildStep]) -> None:
        self.steps = list(steps)

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train each child on the batch; the losses are means over the children."""
        results = [step(index, batch) for step in self.steps]
        label_loss = statistics.fmean(float(result.info["loss"]) for result in results)
        return StepResult(
            statistics.fmean(result.loss for result in results),
            sum(result.tokens for result in results),
            {"loss": label_loss},
            sum(result.flops or 0.0 for result in results),
        )


class AdabertChildTask(CnnTask):
    """The structure that the trial chose, trained as a network of its own."""

    def build(self) -> None:
        """Build the child of one trial; the plan has trial, seed and gamma."""
        super().build()
        self.num_steps = max(1, round(self.settings.child_epochs * self.steps_per_epoch))
        self.model: Child = self._start_child(read_structure(self.trial), read_finalist(self.trial))
        self.step: ChildStep = self._child_step(self.model)
        self.updater = self.step.updater

    def finish(self) -> None:
        """Write the child's weights."""
        save_tensors(self.trial.child, self.model.state_dict())


def read_structure(trial: TrialLayout) -> Structure:
    """Return the structure that a trial chose: a candidate, or the most probable one."""
    if trial.choice.exists():
        return Structure.from_json(json.dumps(read_json(trial.choice)["structure"]))
    return Structure.from_json(trial.structure.read_text())


def read_finalist(trial: TrialLayout) -> Path | None:
    """Return the file with the weights of the finalist that a trial chose; None without rounds."""
    if not trial.choice.exists():
        return None
    weights = read_json(trial.choice)["weights"]
    return None if weights is None else trial.path / weights


def weights_updater(
    model: nn.Module, settings: AdabertSettings, total: int, reduce: AllReduce | None = None
) -> Updater:
    """Return the updater of a student's weights: SGD with momentum (the paper's) or AdamW.

    Args:
        model: The student.
        settings: Optimizer, learning rates, weight decay and clipping.
        total: Steps of the training.
        reduce: Sum over the ranks; None for a single rank.
    """
    optimizer = None
    if settings.optimizer == "sgd":
        # Not fused: operations join when they are first drawn, and fused SGD needs all momenta at once.
        optimizer = functools.partial(torch.optim.SGD, momentum=0.9, lr=settings.learning_rate)
    return Updater(
        model,
        lambda step: cosine_rate(settings.learning_rate, settings.final_learning_rate, total, step),
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        reduce=reduce,
        optimizer=optimizer,
    )

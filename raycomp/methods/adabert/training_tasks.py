"""AdaBERT's two training tasks: the search of the parent graph, and the training of the child."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import torch
from torch import nn

from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.step import ChildStep, SearchStep, cosine_rate
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child, Parent, Student
from raycomp.methods.context import RunContext
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.files import write_json
from raycomp.storage.method_layout import TrialLayout
from raycomp.storage.revision import FIRST_REVISION
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.training.optimizers import AllReduce, JointUpdater, Updater


class SearchedGraph(nn.Module):
    """The parent's weights and P_alpha as one module. One checkpoint then has both."""

    def __init__(self, parent: Parent, distribution: Distribution) -> None:
        super().__init__()
        self.parent = parent
        self.distribution = distribution


class _StudentTask(TrainingTask):
    """What both tasks share: the augmented text, the teacher's outputs, and the paths of one trial."""

    def __init__(
        self,
        context: RunContext,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Read the data; see `TrainingTask`. The plan has trial, seed and gamma."""
        super().__init__(context, plan, device=device, reduce=reduce)
        self.method = "adabert"
        self.data = DistillationData.of(context)
        self.trial = self.data.layout.trial(plan["trial"])
        self.settings = context.job.settings(AdabertSettings)
        self.tokens = self.data.augmented_tokens
        self.batch_size = self.settings.batch_size
        # An epoch is one pass over the given rows, however many rows augmentation adds. Runs with and
        # without augmentation then take the same number of steps.
        self.steps_per_epoch = math.ceil(len(self.data.tokens("train")) / self.batch_size)
        torch.manual_seed(plan["seed"])

    @property
    def data_seed(self) -> int:
        """Seed of the order of batches and of dropout: each seed of `adabert.seeds` has its own."""
        if self.context.revision == FIRST_REVISION:
            return super().data_seed
        return int(self.plan["seed"])

    def _factorise_embedding(self, student: Student) -> None:
        """Start the student's embedding from a low-rank factorisation of the teacher's."""
        embeddings = self.data.teacher().embeddings
        offset = self.data.config.position_offset
        student.embedding.factorise(
            embeddings.word.weight.detach(), embeddings.position.weight.detach()[offset:]
        )


class AdabertSearchTask(_StudentTask):
    """The weights and P_alpha of the parent graph, trained together."""

    def __init__(
        self,
        context: RunContext,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Build the parent of one trial; the plan has trial, seed, gamma, beta and layers."""
        super().__init__(context, plan, device=device, reduce=reduce)
        settings = self.settings
        shape = self.data.student_shape
        self.num_steps = max(1, round(settings.epochs * self.steps_per_epoch))

        parent = Parent(
            shape, plan["layers"], settings.nodes, settings.operations, settings.share_kernels
        )
        parent.dropout = settings.dropout
        self._factorise_embedding(parent)
        distribution = Distribution(plan["layers"], settings.nodes, settings.operations)
        self.model = SearchedGraph(parent, distribution).to(device)
        self._parent = parent
        self._distribution = distribution

        alpha = Updater(
            distribution,
            lambda step: settings.alpha_learning_rate,
            weight_decay=settings.alpha_weight_decay,
            clip=float("inf"),
            optimizer=functools.partial(torch.optim.Adam, betas=(0.5, 0.999)),
        )
        weights = weights_updater(parent, settings, self.num_steps)
        self.updater = JointUpdater([weights, alpha], reduce)

        costs = operation_costs(
            settings.operations, shape.width, shape.max_positions, settings.normalisation
        )
        self.step = SearchStep(
            parent,
            distribution,
            self.updater,
            teacher_outputs=self.data.teacher_outputs,
            distillation=self.data.distillation_loss(plan["gamma"]),
            op_costs=costs.to(device),
            beta=plan["beta"],
            estimator=settings.estimator,
            supervised_depths=settings.supervise,
            alpha_warmup_steps=math.ceil(settings.alpha_warmup * self.num_steps),
            total_steps=self.num_steps,
            seed=plan["seed"],
            precision=self.data.precision(device),
            device=device,
        )

    def distribution_rows(self, step: int) -> list[dict[str, Any]]:
        """Return P_alpha as rows."""
        run = self.context.run_dir.name
        return [
            {"run": run, "step": step, "variable": variable, "choice": choice, "probability": share}
            for variable, choice, share in self._distribution.probabilities()
        ]

    def finish(self) -> None:
        """Write the parent's weights, and the argmax of P_alpha."""
        save_tensors(self.trial.parent, self._parent.unshared_weights())
        best = self._distribution.most_likely()
        write_json(self.trial.structure, json.loads(best.to_json()))


class AdabertChildTask(_StudentTask):
    """The structure that the search chose, trained as a network of its own."""

    def __init__(
        self,
        context: RunContext,
        plan: dict[str, Any],
        *,
        device: torch.device,
        reduce: AllReduce | None,
    ) -> None:
        """Build the child of one trial; the plan has trial, seed and gamma."""
        super().__init__(context, plan, device=device, reduce=reduce)
        settings = self.settings
        self.num_steps = max(1, round(settings.child_epochs * self.steps_per_epoch))

        self.model = Child(self.data.student_shape, read_structure(self.trial))
        if settings.child == "inherited":
            trained = load_tensors(self.trial.parent)
            self.model.load_state_dict({key: trained[key] for key in self.model.state_dict()})
        else:
            self._factorise_embedding(self.model)
        self.model.dropout = settings.dropout
        self.model.to(device)

        self.updater = weights_updater(self.model, settings, self.num_steps, reduce)
        self.step = ChildStep(
            self.model,
            self.updater,
            teacher_outputs=self.data.teacher_outputs,
            distillation=self.data.distillation_loss(plan["gamma"]),
            precision=self.data.precision(device),
            device=device,
        )

    def finish(self) -> None:
        """Write the child's weights."""
        save_tensors(self.trial.child, self.model.state_dict())


def read_structure(trial: TrialLayout) -> Structure:
    """Return the structure that a trial's search chose."""
    return Structure.from_json(trial.structure.read_text())


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

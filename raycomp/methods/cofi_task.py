"""The training task that learns CoFi's masks together with the weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.interface import ElasticOutput
from raycomp.encoder.masked import run_masked
from raycomp.methods.cofi_masks import HardConcreteMasks, penalty, ramp_target
from raycomp.methods.pruned_students import trim_to_limit, write_pruned
from raycomp.methods.supernet import frozen_teacher
from raycomp.methods.tasks import TrainingTask
from raycomp.training.finetune_step import run_teacher
from raycomp.training.hints import Logits, required_output
from raycomp.training.loop import StepResult
from raycomp.training.objectives import label_loss, squared_error
from raycomp.training.optimizers import (
    JointUpdater,
    LinearDecay,
    Updater,
    autocast,
    set_training_mode,
)
from raycomp.training.seeding import step_seed


class PrunedNetwork(nn.Module):
    """The network that is pruned, its masks, and the linear map of its hidden states."""

    def __init__(self, network: ElasticEncoder, masks: HardConcreteMasks) -> None:
        super().__init__()
        width = network.config.hidden_size
        self.network = network
        self.masks = masks
        self.project = nn.Linear(width, width)
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)


class CofiPruneTask(TrainingTask):
    """Pruning for one budget; the plan has budget, num_steps, target_steps and sparsity."""

    def build(self) -> None:
        """Start from the teacher, with all masks open."""
        context = self.context
        # The method's module imports this one.
        from raycomp.methods.cofi import CofiSettings

        settings = context.job.settings(CofiSettings)
        self.method = context.method
        self._settings = settings
        self._read_train_split(settings.batch_size)
        self.num_steps = self.plan["num_steps"]

        network = context.teacher()
        # As in the released code: only the layers, pooler and classifier are trained.
        network.embeddings.requires_grad_(False)
        network.set_dropout(context.job.teacher.dropout)
        self.model: PrunedNetwork = PrunedNetwork(network, HardConcreteMasks(context.shape)).to(
            self.device
        )
        weights = Updater(
            nn.ModuleList([self.model.network, self.model.project]),
            LinearDecay(settings.learning_rate, settings.warmup, (0, self.num_steps)),
            weight_decay=settings.weight_decay,
            clip=1.0,
        )
        masks = Updater(
            self.model.masks,
            lambda step: settings.mask_learning_rate,
            weight_decay=0.0,
            clip=float("inf"),
            optimizer=functools.partial(torch.optim.Adam, lr=settings.mask_learning_rate),
        )
        self.updater: JointUpdater = JointUpdater([weights, masks], self.reduce)
        self._teacher = frozen_teacher(context, self.device, hidden=True)
        self._precision = context.precision(self.device)
        self._cost = context.step_cost()
        self.step = self._train_on

    def _train_on(self, index: int, batch: Batch) -> StepResult:
        """Train weights, masks and multipliers on one batch."""
        settings = self._settings
        set_training_mode(self.model)
        tokens = int(batch.attention_mask.sum())
        batch = batch.to(self.device)
        target = required_output(run_teacher(self._teacher, batch, self._precision, self.device))

        # The masks of a step are the same on every worker.
        generator = torch.Generator().manual_seed(step_seed(self.context.job.run.seed, index))
        masks = self.model.masks.sample(generator)

        with autocast(self._precision, self.device):
            output = run_masked(self.model.network, batch, masks)

        predictions = Logits(temperature=settings.temperature, divergence="kl")
        loss = settings.logits_weight * predictions.loss(output, target, batch)
        loss = loss + settings.layer_weight * layer_loss(
            required_output(output.hidden), required_output(target.hidden), self.model.project, batch
        )

        goal = ramp_target(self.plan["sparsity"], index, self.plan["target_steps"])
        sparsity = self.model.masks.expected_sparsity()
        size_loss = penalty(sparsity, goal, self.model.masks.multipliers)
        # Every worker has the same penalty, and their gradients are summed.
        (loss + size_loss / self._world).backward()
        multipliers = required_output(self.model.masks.multipliers.grad)
        # Ascent: the multipliers grow while the network is too large.
        multipliers.neg_()

        # For the report only: the loss does not read the labels.
        labels = label_loss(output.logits.detach(), batch.labels, batch.total)
        summed = torch.stack([loss.detach(), labels])
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.updater.apply(index, gradients, summed)

        # The masked network computes as much as the full one.
        flops = self._cost.of_step(batch, [None], has_teacher=True)
        return StepResult(float(summed[0]), tokens, flops=flops)

    def finish(self) -> None:
        """Write the remaining heads and neurons, within the budget."""
        context = self.context
        budget = next(b for b in context.job.budget if b.name == self.plan["budget"])
        heads, neurons, scores = self.model.masks.choose()
        trim_to_limit(context, budget, heads, neurons, scores)
        project = self.model.project if self._settings.match == "nearest" else None
        write_pruned(context, budget.name, self.model.network, heads, neurons, project)


@dataclass(frozen=True)
class NearestLayers:
    """Match four layers of the teacher with their nearest student layers; see `layer_loss`.

    Attributes:
        project: Map of the student's states, which is trained with them.
    """

    project: nn.Module
    needs_teacher: ClassVar[bool] = True
    needs_hidden: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = False

    def loss(self, student: ElasticOutput, teacher: ElasticOutput | None, batch: Batch) -> Tensor:
        """Return the summed squared error of the matched layers; see `Hint.loss`."""
        own = required_output(student.hidden)
        target = required_output(required_output(teacher).hidden)
        return layer_loss(own, target, self.project, batch)


def layer_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], project: nn.Module, batch: Batch
) -> Tensor:
    """Return the mean squared error of teacher layers and their nearest student layers, in order.

    Args:
        student: Embeddings and output of each layer, each (batch, length, hidden).
        teacher: The same of the teacher.
        project: Map of the student's states.
        batch: The batch.
    """
    # Layers 3, 6, 9 and 12 of 12.
    num_layers = len(teacher) - 1
    matched = dict.fromkeys(-(-num_layers * i // 4) for i in range(1, 5))
    projected = [project(state) for state in student[1:]]
    count = batch.total_tokens * student[0].shape[-1]

    total = torch.zeros((), device=student[0].device)
    last = len(projected)

    for layer in reversed(matched):
        errors = torch.stack(
            [squared_error(own, teacher[layer], batch.attention_mask) for own in projected[:last]]
        )
        nearest = int(errors.detach().argmin())
        total = total + errors[nearest] / count
        # Layers above cannot be matched with earlier ones of the teacher.
        last = max(1, nearest)

    return total

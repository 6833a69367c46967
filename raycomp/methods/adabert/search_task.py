"""AdaBERT's search as a training task: the weights of the parent graph, and P_alpha."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import torch
from torch import nn

from raycomp.data.batches import TrainPlan
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.held_out import HeldOutBatches, HeldOutUpdates, split_rows
from raycomp.methods.adabert.noise_band import AlphaUpdates, noise_band
from raycomp.methods.adabert.step import SearchStep
from raycomp.methods.adabert.student import Parent
from raycomp.methods.adabert.training_tasks import CnnTask, weights_updater
from raycomp.methods.tasks import SharedSampler
from raycomp.storage.files import write_json
from raycomp.storage.tensors import save_tensors
from raycomp.training.optimizers import JointUpdater, Updater


class SearchedGraph(nn.Module):
    """The parent's weights and P_alpha as one module. One checkpoint then has both."""

    def __init__(self, parent: Parent, distribution: Distribution) -> None:
        super().__init__()
        self.parent = parent
        self.distribution = distribution


class AdabertSearchTask(CnnTask):
    """The weights and P_alpha of the parent graph, trained together."""

    def build(self) -> None:
        """Build the parent of one trial; the plan has trial, seed, gamma, beta and layers."""
        super().build()
        settings = self.settings
        shape = self.data.student_shape
        self.num_steps = max(1, round(settings.epochs * self.steps_per_epoch))

        parent = Parent(
            shape, self.plan["layers"], settings.nodes, settings.operations, settings.share_kernels
        )
        parent.dropout = settings.dropout
        self.factorise_embedding(parent)
        distribution = Distribution(self.plan["layers"], settings.nodes, settings.operations)
        self.model = SearchedGraph(parent, distribution).to(self.device)
        self._parent = parent
        self._distribution = distribution

        alpha = Updater(
            distribution,
            lambda step: settings.alpha_learning_rate,
            weight_decay=settings.alpha_weight_decay,
            clip=float("inf"),
            reduce=self.reduce,
            optimizer=functools.partial(torch.optim.Adam, betas=(0.5, 0.999)),
        )
        weights = weights_updater(parent, settings, self.num_steps)
        self.updater = JointUpdater([weights, alpha], self.reduce)
        self._weight_rows: np.ndarray | None = None
        held_out = self._hold_out(alpha) if settings.alpha_updates else None

        costs = operation_costs(
            settings.operations, shape.width, shape.max_positions, settings.normalisation
        )
        self.step: SearchStep = SearchStep(
            parent,
            distribution,
            self.updater,
            teacher_outputs=self.data.teacher_outputs,
            distillation=self.data.distillation_loss(self.plan["gamma"]),
            op_costs=costs.to(self.device),
            beta=self.plan["beta"],
            estimator=settings.estimator,
            supervised_depths=settings.supervise,
            alpha_warmup_steps=math.ceil(settings.alpha_warmup * self.num_steps),
            total_steps=self.num_steps,
            seed=self.plan["seed"],
            precision=self.data.precision(self.device),
            device=self.device,
            held_out=held_out,
        )

    def _hold_out(self, alpha: Updater) -> HeldOutUpdates:
        """Return the updates of P_alpha, on rows that the weights then do not read."""
        settings = self.settings
        seed = int(self.plan["seed"])
        self._weight_rows, rows = split_rows(self.data.sources, settings.alpha_share, seed)
        batches = HeldOutBatches(
            self.tokens,
            rows,
            self.batch_size,
            settings.alpha_structures,
            seed,
            self.data.pad_id,
            self.device,
        )
        return HeldOutUpdates(
            self._parent,
            self._distribution,
            alpha,
            batches,
            updates=settings.alpha_updates,
            estimator=settings.estimator,
        )

    def batch_plan(self) -> TrainPlan:
        """Return the plan of the rows that the weights read."""
        return TrainPlan(self.tokens.lengths, self.batch_size, self.data_seed, only=self._weight_rows)

    def begin(self, rank: int, world: int, sampler: SharedSampler | None) -> None:
        """Start an attempt; the workers share the structures of an update of P_alpha."""
        super().begin(rank, world, sampler)
        if self.step.held_out is not None:
            self.step.held_out.rank = rank
            self.step.held_out.world = world
        if rank == 0:
            self.step.noise_band = self._noise_band()

    def _noise_band(self) -> list[tuple[float, float]]:
        """Return the entropy that noise gives after each step in which P_alpha learns."""
        settings = self.settings
        per_step = settings.alpha_updates or 1
        warmup = self.step.alpha_warmup_steps
        steps = range(warmup, self.num_steps)
        updates = AlphaUpdates(
            layers=self.plan["layers"],
            nodes=settings.nodes,
            candidates=tuple(settings.operations),
            structures=settings.alpha_structures if settings.alpha_updates else 1,
            estimator=settings.estimator,
            learning_rate=settings.alpha_learning_rate,
            temperatures=tuple(self.step.temperature(step) for step in steps for _ in range(per_step)),
        )
        return noise_band(updates)[per_step - 1 :: per_step]

    def probabilities(self, step: int) -> list[tuple[str, str, float]]:
        """Return P_alpha."""
        return self._distribution.probabilities()

    def finish(self) -> None:
        """Write the parent's weights, P_alpha, and its argmax."""
        save_tensors(self.trial.parent, self._parent.unshared_weights())
        save_tensors(self.trial.p_alpha, self._distribution.state_dict())
        best = self._distribution.most_likely()
        write_json(self.trial.structure, json.loads(best.to_json()))

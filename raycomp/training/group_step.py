"""One step of several networks that share a teacher: it runs once on each batch for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import nn

from raycomp.data.batches import Batch
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Layer
from raycomp.training.finetune_step import Teacher, check_teacher, run_teacher
from raycomp.training.hints import Objective
from raycomp.training.int8_rounding import Int8Rounding
from raycomp.training.loop import StepResult, seed_generators
from raycomp.training.optimizers import JointUpdater, autocast, set_training_mode
from raycomp.training.seeding import network_seed
from raycomp.training.step_cost import StepCost


class GroupStep:
    """Trains networks that share an embedding module, which is not trained, or have trained ones.

    The networks do not depend on each other. Each of them gets the update that it would get if it was
    trained without the others. With dropout, this holds if the caller seeds torch before each step, as
    `loop.fit` does.
    """

    def __init__(
        self,
        networks: Sequence[ElasticEncoder],
        updater: JointUpdater,
        *,
        objective: Objective,
        teacher: Teacher | None,
        precision: str,
        device: torch.device,
        cost: StepCost | None = None,
        int8_from: int | None = None,
        reduce_range: bool = False,
    ) -> None:
        """Prepare the step.

        Args:
            networks: Networks on `device`. Those whose embeddings are frozen have the same ones.
            updater: Optimizer of `trained_parts(networks)`; it has one member for each network.
            objective: Weighted hints to minimise.
            teacher: Source of the outputs that the hints read.
            precision: "bf16" or "fp32".
            device: Device of the networks and of the teacher.
            cost: FLOPs of all networks; None leaves FLOPs out of the figures of a step.
            int8_from: First step in which the networks round as in INT8; None never rounds.
            reduce_range: Whether weights are rounded to 7 bits.

        Raises:
            ValueError: The objective needs a teacher, and none is given.
        """
        check_teacher(objective, teacher)
        self.networks = list(networks)
        self.updater = updater
        self.objective = objective
        self.teacher = teacher
        self.precision = precision
        self.device = device
        self.cost = cost
        self.int8_from = int8_from
        self.reduce_range = reduce_range

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train every network on one batch."""
        tokens = int(batch.attention_mask.sum()) * len(self.networks)
        batch = batch.to(self.device)
        target = run_teacher(self.teacher, batch, self.precision, self.device)

        for network in self.networks:
            set_training_mode(network)
        shared = next((network for network in self.networks if not trains_embeddings(network)), None)
        if shared is not None:
            with torch.no_grad(), autocast(self.precision, self.device):
                embedded = shared.embed(batch)

        losses = torch.zeros(len(self.networks), device=self.device)
        is_rounded = self.int8_from is not None and index >= self.int8_from
        rounding: AbstractContextManager[Any] = contextlib.nullcontext()
        if is_rounded:
            rounding = Int8Rounding(reduce_range=self.reduce_range)
        step_seed = torch.initial_seed()
        for i, network in enumerate(self.networks):
            if has_dropout(network):
                # In turn from one generator, the draws would depend on the networks before this one.
                seed_generators(network_seed(step_seed, network.largest.id))
            with autocast(self.precision, self.device), rounding:
                output = network(
                    batch,
                    hidden=self.objective.needs_hidden,
                    attention=self.objective.needs_attention,
                    embedded=None if trains_embeddings(network) else embedded,
                )
            loss, _ = self.objective.losses(output, target, batch)
            loss.backward()
            losses[i] = loss.detach()

        gradients = [
            parameter.grad
            for member in self.updater.members
            for parameter in member.model.parameters()
            if parameter.grad is not None
        ]
        # Summed with the gradients: every worker then reports the loss of the global batch.
        self.updater.apply(index, gradients, losses)
        flops = None
        if self.cost is not None:
            archs = [network.largest for network in self.networks]
            # The teacher runs once for all of them.
            flops = self.cost.of_step(batch, archs, has_teacher=self.teacher is not None)
        return StepResult(float(losses.mean()), tokens, flops=flops)


def trained_parts(networks: Sequence[ElasticEncoder]) -> nn.ModuleList:
    """Return the modules of each network that `GroupStep` trains.

    Of the embeddings they have only a word table that is trained.
    """
    return nn.ModuleList(_trained_part(network) for network in networks)


def _trained_part(network: ElasticEncoder) -> nn.ModuleDict:
    parts = {"layers": network.layers, "pooler": network.pooler, "classifier": network.classifier}
    if trains_embeddings(network):
        parts["embeddings"] = nn.ModuleDict(table_modules(network))
    return nn.ModuleDict(parts)


def table_modules(network: ElasticEncoder) -> dict[str, nn.Module]:
    """Return the modules of a network's word table, by name."""
    embeddings = network.embeddings
    word: dict[str, nn.Module] = {"word": embeddings.word}
    return word if embeddings.expand is None else {**word, "expand": embeddings.expand}


def has_dropout(network: ElasticEncoder) -> bool:
    """Return whether a network drops numbers out while it trains."""
    rates = [network.classifier_dropout, network.embeddings.dropout]
    for module in network.layers:
        layer = cast(Layer, module)
        rates += [layer.hidden_dropout, layer.attention_dropout]
    return max(rates) > 0


def trains_embeddings(network: ElasticEncoder) -> bool:
    """Return whether the word table of a network is trained."""
    return network.embeddings.word.weight.requires_grad

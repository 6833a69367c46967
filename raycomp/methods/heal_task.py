"""The training task of healing: one round of a group of sub-networks that share the teacher's pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raycomp.data.batches import TrainPlan
from raycomp.encoder.architecture import FULL_TABLE, Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.context import RunContext
from raycomp.methods.supernet import frozen_teacher
from raycomp.methods.task_vocabulary import tokens_of
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.files import write_json
from raycomp.storage.revision import SECOND_REVISION
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.training.group_step import GroupStep, table_modules, trained_parts
from raycomp.training.hints import load_objective
from raycomp.training.learning_rates import choose_learning_rate
from raycomp.training.optimizers import JointUpdater, LinearDecay, Updater

if TYPE_CHECKING:
    from raycomp.encoder.static_model import RaycompForSequenceClassification


class HealTask(TrainingTask):
    """One round of healing; the plan has the architectures ("archs", JSON) and the round ("round").

    "reduce_range" of the plan says whether steps that round as in INT8 have weights of 7 bits.
    In the first round networks start from the weights that they inherit, later from those of the round
    before.
    """

    def build(self) -> None:
        """Cut the networks out of the trained super-network."""
        context = self.context
        settings = context.job.heal
        train = context.job.train
        self.method = context.method
        self._read_train_split(settings.batch_size)
        self._round = int(self.plan.get("round", 1))
        self.num_steps = settings.steps_of_round(self._round)

        self._archs = [Architecture.from_json(text) for text in self.plan["archs"]]
        # All networks of a group read the same tokens.
        self.tokens = tokens_of(context, "train", self._archs[0].table)
        supernet = self.load_source()
        supernet.embeddings.requires_grad_(False)

        networks = [self._first_weights(supernet, arch).to(self.device) for arch in self._archs]
        for network in networks:
            network.set_dropout(train.dropout)
        self.model: nn.ModuleList = trained_parts(networks)
        rate = choose_learning_rate(settings.learning_rate, context.config.hidden_size)
        members = [
            Updater(
                part,
                LinearDecay(rate, train.warmup, (0, self.num_steps)),
                weight_decay=train.weight_decay,
                clip=train.clip,
            )
            for part in self.model
        ]
        self.updater = JointUpdater(members, self.reduce)

        objective = load_objective(settings.distill)
        teacher = None
        if objective.needs_teacher:
            teacher = frozen_teacher(
                context, self.device, hidden=objective.needs_hidden, attention=objective.needs_attention
            )
        int8_steps = round(settings.int8_share * self.num_steps)
        self.step: GroupStep = GroupStep(
            networks,
            self.updater,
            objective=objective,
            teacher=teacher,
            precision=context.precision(self.device),
            device=self.device,
            cost=context.step_cost(),
            int8_from=self.num_steps - int8_steps if int8_steps else None,
            reduce_range=bool(self.plan.get("reduce_range")),
        )

    def batch_plan(self) -> TrainPlan:
        """Return the plan of the rows of each step, which continues that of the round before."""
        settings = self.context.job.heal
        first = 0
        # Runs that began with an earlier revision read the same rows in each round.
        if self.context.revision > SECOND_REVISION:
            first = sum(settings.steps_of_round(number) for number in range(1, self._round))
        return TrainPlan(self.tokens.lengths, self.batch_size, self.data_seed, first=first)

    def load_source(self) -> ElasticEncoder:
        """Return the network that the networks are cut out of: the trained super-network."""
        return self.context.supernet()

    def _first_weights(self, supernet: ElasticEncoder, arch: Architecture) -> ElasticEncoder:
        """Return a network with the weights that it has before this round."""
        if self._round == 1:
            return cut_network(supernet, arch)
        return load_healed(self.context, supernet, arch, self._round - 1)

    def finish(self) -> None:
        """Write the weights of each network; embeddings that are frozen stay the super-network's."""
        costs = self._costs()
        for arch, part in zip(self._archs, self.model, strict=True):
            files = self.context.files.healed(arch.id, self._round)
            files.outcome.unlink(missing_ok=True)
            write_json(files.cost, costs[arch])
            # The weights come last: the network is complete.
            save_tensors(files.network, part.state_dict())

    def _costs(self) -> dict[Architecture, dict[str, Any]]:
        """Return the cost of each network, with its share of the group's time by FLOPs."""
        plan = self.batch_plan()
        tokens = sum(int(self.tokens.lengths[plan.rows(step)].sum()) for step in range(self.num_steps))
        teacher = 0.0
        if self.step.teacher is not None:
            teacher = float(self.context.costs.cost("flops", self.context.space.largest()))

        # A training step takes three times its forward pass. The networks share the teacher's.
        flops = {
            arch: 3 * float(self.context.costs.cost("flops", arch)) + teacher / len(self._archs)
            for arch in self._archs
        }
        whole = sum(flops.values())

        return {
            arch: {
                "training": self.plan["training"],
                "share": flops[arch] / whole,
                "steps": self.num_steps,
                "tokens": tokens,
            }
            for arch in self._archs
        }


def cut_network(
    supernet: ElasticEncoder, arch: Architecture, weights: Mapping[str, torch.Tensor] | None = None
) -> ElasticEncoder:
    """Return a sub-network as a network of its own, which reads ids of the full vocabulary.

    It shares the super-network's embeddings, unless its word table has a rank: then it has its own table.

    Args:
        supernet: The trained super-network.
        arch: The sub-network.
        weights: Weights that replace the inherited ones.
    """
    has_own_table = arch.table.rank is not None
    # A whole table is cut when the network is exported.
    inner = arch if has_own_table else replace(arch, table=FULL_TABLE)
    shapes = supernet.shapes_of(inner)
    network = ElasticEncoder(Encoder(EncoderConfig.from_config(supernet.config.to_dict() | shapes)))
    network.load_state_dict({**supernet.extract_weights(inner), **(weights or {})})
    if not has_own_table:
        network.share_embeddings(supernet)
        network.table_parts = supernet.table_parts
        return network

    network.embeddings.requires_grad_(False)
    for module in table_modules(network).values():
        module.requires_grad_(True)
    if arch.table.is_cut:
        network.row_ids = supernet.table_parts.token_ids
    return network


def extract_healed(network: ElasticEncoder, arch: Architecture) -> RaycompForSequenceClassification:
    """Return a network that `cut_network` made as a static model, with its architecture's word table."""
    table = arch.table if arch.table.rank is None else FULL_TABLE
    return network.extract(replace(network.largest, table=table))


def load_healed(
    context: RunContext, supernet: ElasticEncoder, arch: Architecture, number: int | None = None
) -> ElasticEncoder:
    """Return a healed network in eval mode.

    Args:
        context: The run's context.
        supernet: The trained super-network, which has the network's embeddings.
        arch: The network's architecture.
        number: Round after which its weights are read; None is its last one.
    """
    if number is None:
        number = last_round(context, arch)
    weights = load_tensors(context.files.healed(arch.id, number).network)
    return cut_network(supernet, arch, weights).eval()


def last_round(context: RunContext, arch: Architecture) -> int:
    """Return the number of the last round of healing that a network has finished, at least 1."""
    number = 1
    while context.files.healed(arch.id, number + 1).network.exists():
        number += 1
    return number

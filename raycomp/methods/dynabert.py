"""DynaBERT without data augmentation: an elastic width, then an elastic depth, with distillation.

The teacher's heads and neurons are sorted by importance. In the width stage each step runs all widths m:
the first round(m h) heads and the first m k neurons of every layer. In the depth stage it runs all pairs
of width and depth; a depth m has the layers floor(i / m). The gradients of a step are summed. The loss of
each network is

    L = a CE_soft(teacher) + b sum_i MSE(h_i, h_T,floor(i / m))

with a = 1 and b = 0.1 in the width stage, where the fine-tuned teacher teaches, and a = b = 1 in the
depth stage, where the full network of the width stage does. No label is read. With `width_labels`, the
width stage reads labels only, as the released code does without augmentation. Each budget gets the best
network on the selection split of those within it, up to `tolerance`: a width of 1/2 has a little more
than half of the parameters, because LayerNorms and two biases of a layer keep the whole width. With
`heal`, [heal] heals the networks as those of the other super-networks. Importance is measured on
labelled selection rows (`methods.supernet_start`; the released code: on the development set).

refs: L. Hou, Z. Huang, L. Shang, X. Jiang, X. Chen, Q. Liu. DynaBERT: Dynamic BERT with Adaptive Width
and Depth. NeurIPS 2020. https://arxiv.org/abs/2004.04037
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from raycomp.config.budget import BudgetSettings
from raycomp.config.section import MethodSettings
from raycomp.data.batches import mean_batch, smallest_batch
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.base import Deployable, Method, Run
from raycomp.methods.context import RunContext
from raycomp.methods.dynabert_stages import STAGES, DynabertSampler, list_networks, stage_objective
from raycomp.methods.elastic_method import steps_of_epochs
from raycomp.methods.heal_task import HealTask
from raycomp.methods.healing import find_lost_evaluations, heal_group, plan_healing, summarise_healing
from raycomp.methods.scored_networks import ScoredNetworks
from raycomp.methods.subnetworks import release_supernet, restore_subnetwork
from raycomp.methods.supernet import SupernetTask, write_start_network
from raycomp.methods.supernet_start import find_start_problems
from raycomp.methods.tasks import TrainingTask
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_tensors, save_tensors

DESCRIPTION = (
    "Extracted by raycomp from a super-network that was trained at every width and depth of DynaBERT "
    "(without data augmentation)."
)


class DynabertSettings(MethodSettings):
    """DynaBERT without data augmentation; [train] sets precision and workers."""

    method: ClassVar[str] = "dynabert"
    title: ClassVar[str] = "DynaBERT w/o DA (KD in both stages)"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "final_epochs")
    shared_sections: ClassVar[tuple[str, ...]] = ("heal",)
    # Earlier runs kept each limit exactly, and were not healed.
    identity_defaults: ClassVar[dict[str, Any]] = {"tolerance": 0.0, "heal": False}

    epochs: float = Field(3.0, gt=0, le=1000, description="Passes over the training split in each stage.")
    final_epochs: float = Field(
        0.0, ge=0, le=1000, description="Passes of a third stage on the labels only. The paper's form: 3."
    )
    batch_size: int = Field(32, ge=1, description="Texts of one step, summed over all workers.")
    learning_rate: float = Field(
        2e-5, gt=0, lt=1, description="Largest learning rate. It falls linearly to 0 in each stage."
    )
    widths: list[float] = Field(
        [0.25, 0.5, 0.75, 1.0], description="Parts of the heads and neurons of a layer, with 1."
    )
    depths: list[float] = Field([0.5, 0.75, 1.0], description="Parts of the layers, with 1.")
    hidden_weight: float = Field(
        0.1, ge=0, description="Weight of the hidden states in the width stage (b)."
    )
    width_labels: bool = Field(
        False,
        description="Whether the width stage learns from the labels only, as the released code does "
        "without data augmentation.",
    )
    tolerance: float = Field(
        0.001,
        ge=0,
        le=0.05,
        description="Part of a limit by which a network may exceed it. A width of 1/2 has .500325 of the "
        "encoder of BERT-base, and .500649 of that of MiniLM-L6. 0: a limit is kept exactly.",
    )
    heal: bool = Field(
        False,
        description="Whether [heal] heals the chosen networks, as it does for the other super-networks. "
        "The paper's form is false.",
    )

    def reads(self, section: str) -> bool:
        """Return whether a section of the job file matters: [heal] only with `heal`."""
        return super().reads(section) and (section != "heal" or self.heal)

    @field_validator("widths", "depths")
    @classmethod
    def _shares(cls, value: list[float]) -> list[float]:
        if not all(0 < share <= 1 for share in value) or 1.0 not in value:
            raise ValueError("each number must be above 0 and at most 1, and 1 must be among them")
        return sorted(set(value), reverse=True)


class DynabertTask(SupernetTask):
    """One stage of DynaBERT; the plan names it ("stage")."""

    def build(self) -> None:
        """Build the network as the stage before left it."""
        super().build()
        settings = self.context.job.settings(DynabertSettings)
        # A plan has names only; the objective of a stage depends on the job.
        self._objective = stage_objective(
            self.plan["stage"], settings.hidden_weight, settings.width_labels
        )

    def start_path(self) -> Path:
        """Return the weights of the stage before."""
        return _start_path(self.context, self.plan["stage"])

    def teacher_path(self) -> Path:
        """Return the fine-tuned teacher in the width stage, then the full network of that stage."""
        if self.plan["stage"] == "width":
            return super().teacher_path()
        return self.start_path()

    def finish(self) -> None:
        """Write the stage's network."""
        network = self.context.files.student(self.plan["stage"]).network
        save_tensors(network, self.model.state_dict())


class Dynabert(Method):
    """DynaBERT without data augmentation."""

    settings: ClassVar[type[MethodSettings]] = DynabertSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "dynabert-stage": DynabertTask,
        "dynabert-heal": HealTask,
    }

    def compress(self, run: Run) -> list[Deployable]:
        """Train all stages, score the networks that a budget allows, and return the best of each."""
        context = run.context
        context.tokens("train")
        context.tokens("selection")
        self._train(run)
        settings = context.job.settings(DynabertSettings)

        scored = ScoredNetworks(
            run,
            _networks(context, "depth"),
            DESCRIPTION,
            tolerance=settings.tolerance,
            heal_task="dynabert-heal" if settings.heal and context.job.heal.steps else None,
        )
        return scored.choose(lambda budget: self.explain_infeasible(context, budget))

    def run_trial(self, run: Run, trial: dict[str, Any]) -> None:
        """Heal one group of networks, in a process of its own."""
        heal_group(run, "dynabert-heal", trial)

    def find_problems(self, context: RunContext) -> list[str]:
        """Return a message where the job turns the rewiring off, or the start is not the teacher."""
        return find_start_problems(context, self.name, needs_order=True)

    def _train(self, run: Run) -> None:
        """Train the stages one after the other; finished ones are not repeated."""
        context = run.context
        if context.files.sampler.exists():
            return
        write_start_network(run)
        stages = _stages(context)
        # Sorted once: the stages train front slices of the same order.
        for stage in stages:
            if not context.files.student(stage).network.exists():
                run.train(f"dynabert-stage.{stage}", _stage_plan(context, stage))
        last = context.files.student(stages[-1]).network
        save_tensors(context.files.supernet_network, load_tensors(last))
        # It comes last: the super-network is complete.
        write_json(context.files.sampler, DynabertSampler(context.space, []).state(0))

    def restore(self, context: RunContext, row: Mapping[str, Any]) -> Deployable:
        """Return the deployable of a row, from the trained super-network."""
        tolerance = context.job.settings(DynabertSettings).tolerance
        return replace(restore_subnetwork(context, row, DESCRIPTION), tolerance=tolerance)

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the smallest limit that a network meets, which may exceed it by `tolerance`."""
        costs = [float(context.costs.cost(kind, arch)) for arch in _networks(context, "depth")]
        return min(costs) / (1 + context.job.settings(DynabertSettings).tolerance)

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why none of the networks meets a budget."""
        least = self.least_cost(context, budget.kind)
        return (
            f"Budget {budget.name}: {budget.kind} <= {context.limit(budget):,.0f} cannot be met by "
            f"dynabert. Nearest feasible limit: {math.ceil(least):,}. Add smaller values to "
            "dynabert.widths or dynabert.depths."
        )

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return the rows of the smallest batch."""
        settings = context.job.settings(DynabertSettings)
        sizes = [settings.batch_size]
        if settings.heal and context.job.heal.steps:
            sizes.append(context.job.heal.batch_size)
        return [smallest_batch(len(context.task.train), size) for size in sizes]

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the steps of each stage and the FLOPs of training (three forward passes a step)."""
        settings = context.job.settings(DynabertSettings)
        full, _ = context.flops_per_row()
        share = context.mean_length_share()
        rows = mean_batch(len(context.task.train), settings.batch_size)
        steps = []
        flops = 0.0
        for stage in _stages(context):
            plan = _stage_plan(context, stage, len(context.task.train))
            costs = [float(context.costs.cost("flops", arch)) for arch in _networks(context, stage)]
            steps.append(plan["num_steps"])
            flops += plan["num_steps"] * rows * (3 * sum(costs) * share + full)

        if not settings.heal:
            return {"steps": steps, "flops": flops}
        healing = plan_healing(context)
        flops += healing.pop("flops")
        return {"steps": steps, "heal": healing, "flops": flops}

    def budget_of(self, context: RunContext, training: str) -> str | None:
        """Return None: all budgets share every stage."""
        return None

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes of all stages."""
        settings = context.job.settings(DynabertSettings)
        return 2 * settings.epochs + settings.final_epochs

    def release(self) -> None:
        """Release the super-network."""
        release_supernet()

    def summary(self, run: Run) -> dict[str, Any]:
        """Return how many networks were trained together, and what healing cost."""
        summary: dict[str, Any] = {"networks": len(_networks(run.context, "depth"))}
        healing = summarise_healing(run.context)
        return {**summary, "heal": healing} if healing else summary

    def forget_lost_results(self, context: RunContext, parts: set[str]) -> list[str]:
        """Delete the scores of networks without an evaluation. They are then scored again."""
        lost = ScoredNetworks.forget_lost(context, _networks(context, "depth"), parts)
        return lost + find_lost_evaluations(context, parts)


def _stages(context: RunContext) -> tuple[str, ...]:
    """Return the names of the stages that the job has."""
    if context.job.settings(DynabertSettings).final_epochs:
        return STAGES
    return STAGES[:-1]


def _start_path(context: RunContext, stage: str) -> Path:
    index = STAGES.index(stage)
    if index == 0:
        return context.files.supernet_start
    return context.files.student(STAGES[index - 1]).network


def _networks(context: RunContext, stage: str) -> list[Architecture]:
    """Return the networks of a stage: all widths at full depth, or all pairs."""
    if context.space.is_plain:
        raise UserError(
            "space.plain does not fit method dynabert, whose networks have a part of the heads. Leave "
            "one of them out."
        )
    settings = context.job.settings(DynabertSettings)
    # The depth stage trains all pairs: otherwise it would forget the widths.
    depths = settings.depths
    if stage == "width":
        depths = [1.0]
    return list_networks(context.space, settings.widths, depths)


def _stage_plan(context: RunContext, stage: str, num_rows: int | None = None) -> dict[str, Any]:
    settings = context.job.settings(DynabertSettings)
    epochs = settings.epochs
    if stage == "final":
        epochs = settings.final_epochs

    rows = num_rows or len(context.tokens("train"))

    return {
        "stage": stage,
        "space": context.space.to_dict(),
        "num_steps": steps_of_epochs(epochs, rows, settings.batch_size),
        "phase_starts": [0],
        "distill": "none",
        "average": False,
        "train": {
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "warmup": 0.0,
            "weight_decay": 0.0,
            "schedule": "run",
        },
        "sampler": {
            "name": "dynabert",
            "networks": [arch.to_json() for arch in _networks(context, stage)],
        },
    }

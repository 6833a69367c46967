"""CoFi: masks on heads, neurons and whole half layers are learnt under a target size, with distillation.

A mask z is hard concrete: z = min(1, max(0, s (1.2) - 0.1)) with s = sigmoid((logit(u) + log a) / (2/3)).
The loss of the pruning is

    L = 0.1 T^2 KL(T = 2) + 0.9 L_layer + l1 (s - t) + l2 (s - t)^2

where s is the expected sparsity, t rises linearly to its target, and l1, l2 are trained by ascent.
L_layer matches four layers of the teacher with their nearest student layers, in order, through one linear
map. No label is read. The pruned network is then trained further on the same distillation. Differences:
the hidden dimension is not pruned; a half layer at mask 0 is skipped with its LayerNorm; masks are learnt
from the first step; embeddings stay frozen only during the pruning.

refs: M. Xia, Z. Zhong, D. Chen. Structured Pruning Learns Compact and Accurate Models. ACL 2022.
https://arxiv.org/abs/2204.00408
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from raycomp.config.budget import BudgetSettings
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Run
from raycomp.methods.cofi_task import CofiPruneTask
from raycomp.methods.context import RunContext
from raycomp.methods.pruned_students import PrunedMethod
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import Hidden, Logits, Objective
from raycomp.training.phases import count_steps


class CofiSettings(StudentSettings):
    """CoFi: structured pruning with learnt masks; one student per budget."""

    method: ClassVar[str] = "cofi"
    title: ClassVar[str] = "CoFi"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "prune_epochs", "target_epochs")

    epochs: float = Field(
        20.0, gt=0, le=1000, description="Passes over the training split after the pruning."
    )
    learning_rate: float = Field(
        2e-5,
        gt=0,
        lt=1,
        description="Largest learning rate of the weights, in and after the pruning. It falls linearly "
        "to 0. The paper uses 1e-5, 2e-5 and 3e-5.",
    )
    prune_epochs: float = Field(
        20.0,
        gt=0,
        le=1000,
        description="Passes over the training split of the pruning. The paper uses 20 for large tasks "
        "and 100 for small ones.",
    )
    target_epochs: float = Field(
        2.0,
        gt=0,
        le=1000,
        description="Passes in which the target size falls from the full size to the budget. The paper "
        "uses 2 for large tasks and 20 for small ones.",
    )
    mask_learning_rate: float = Field(
        0.01, gt=0, lt=1, description="Learning rate of the masks and of the multipliers l1 and l2."
    )
    temperature: float = Field(2.0, gt=0, description="Temperature of the predictions (T).")
    logits_weight: float = Field(0.1, ge=0, description="Weight of the teacher's predictions.")
    layer_weight: float = Field(0.9, ge=0, description="Weight of the hidden states.")


class Cofi(PrunedMethod):
    """CoFi."""

    settings: ClassVar[type[StudentSettings]] = CofiSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {
        "cofi-prune": CofiPruneTask,
        "cofi-student": StudentTask,
    }

    def prune(self, run: Run, budget: BudgetSettings) -> None:
        """Learn the masks of a budget."""
        context = run.context
        settings = context.job.settings(CofiSettings)
        # The pruning reads the same rows as the training after it.
        steps_per_epoch = -(-len(context.tokens("train")) // settings.batch_size)
        run.train(
            f"cofi-prune.{budget.name}",
            {
                "budget": budget.name,
                "num_steps": count_steps(settings.prune_epochs, steps_per_epoch),
                "target_steps": count_steps(settings.target_epochs, steps_per_epoch),
                "sparsity": target_sparsity(context, budget),
            },
        )

    def objective(self, context: RunContext) -> Objective:
        """Return the distillation after the pruning, on uniformly matched layers."""
        settings = context.job.settings(CofiSettings)
        predictions = Logits(temperature=settings.temperature, divergence="kl")
        terms = ((settings.logits_weight, predictions), (settings.layer_weight, Hidden()))
        return Objective(tuple((weight, hint) for weight, hint in terms if weight > 0))

    def training_epochs(self, context: RunContext) -> float:
        """Return the passes of the pruning and of the training after it."""
        settings = context.job.settings(CofiSettings)
        return settings.prune_epochs + settings.epochs

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the students and the FLOPs, those of the pruning included."""
        settings = context.job.settings(CofiSettings)
        plan = super().plan(context)
        # Three forward passes of the full network, and one of the teacher.
        rows = settings.prune_epochs * len(context.task.train) * len(plan["students"])
        return {**plan, "flops": plan["flops"] + 4 * rows * context.flops_per_row()[0]}


def target_sparsity(context: RunContext, budget: BudgetSettings) -> float:
    """Return the part of the heads and neurons that a budget leaves out, from 0 to 1."""
    full = float(context.costs.cost(budget.kind, context.space.largest()))
    least = float(context.costs.cost(budget.kind, Architecture(1, (0,), (1,))))
    # Embeddings and pooler cannot be pruned: the rest of the budget is that of the layers.
    share = (context.limit(budget) - least) / (full - least)
    return min(1.0, max(0.0, 1.0 - share))

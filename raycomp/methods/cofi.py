"""CoFi: masks on heads, neurons and whole half layers are learnt under a target size, with distillation.

A mask z is hard concrete: z = min(1, max(0, s (1.2) - 0.1)) with s = sigmoid((logit(u) + log a) / (2/3)).
The loss of the pruning is

    L = 0.1 T^2 KL(T = 2) + 0.9 L_layer + l1 (s - t) + l2 (s - t)^2

where s is the expected sparsity, t rises linearly to its target, and l1, l2 are trained by ascent.
L_layer matches four layers of the teacher with their nearest student layers, in order, through one linear
map. No label is read. The pruned network is then trained further on 0.1 T^2 KL + 0.9 L_layer, with the
map as the pruning left it; embeddings are frozen throughout. Differences: the hidden dimension is not
pruned; a half layer at mask 0 is skipped with its LayerNorm; masks are learnt from the first step.

refs: M. Xia, Z. Zhong, D. Chen. Structured Pruning Learns Compact and Accurate Models. ACL 2022.
https://arxiv.org/abs/2204.00408
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from raycomp.config.budget import BudgetSettings
from raycomp.config.section import choices
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Run
from raycomp.methods.cofi_task import CofiPruneTask, NearestLayers
from raycomp.methods.context import RunContext
from raycomp.methods.pruned_students import PrunedMethod
from raycomp.methods.student_models import ProjectedStudent, student_network
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import Hidden, Hint, Logits, Objective
from raycomp.training.phases import TrainingPhase, count_steps


class CofiSettings(StudentSettings):
    """CoFi: structured pruning with learnt masks; one student per budget."""

    method: ClassVar[str] = "cofi"
    title: ClassVar[str] = "CoFi"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "prune_epochs", "target_epochs")
    # Earlier runs matched all layers after the pruning.
    identity_defaults: ClassVar[dict[str, Any]] = {"match": "uniform"}

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
    match: Literal["nearest", "uniform"] = Field(
        "nearest",
        description=choices(
            "How hidden states are matched after the pruning.",
            {
                "nearest": "as in the pruning: four layers of the teacher, each with the nearest student "
                "layer, summed, through one linear map; embeddings are frozen (the paper's form)",
                "uniform": "the mean over all layers and the embeddings, matched at equal strides, "
                "without a map; embeddings are trained, as in earlier versions",
            },
        ),
    )


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

    def trained_network(self, context: RunContext, arch: Architecture) -> nn.Module:
        """Return the pruned network with the map of its hidden states, its embeddings frozen."""
        student = student_network(context, arch)
        if context.job.settings(CofiSettings).match == "uniform":
            return student
        student.embeddings.requires_grad_(False)
        return ProjectedStudent(student, context.config.hidden_size)

    def student_weights(
        self, context: RunContext, model: nn.Module, arch: Architecture
    ) -> dict[str, Tensor]:
        """Return the student's weights, without the map."""
        student = model.student if isinstance(model, ProjectedStudent) else model
        return student.state_dict()

    def phases(
        self,
        context: RunContext,
        arch: Architecture,
        steps_per_epoch: int,
        model: nn.Module | None = None,
    ) -> tuple[TrainingPhase, ...]:
        """Return the distillation after the pruning."""
        settings = context.job.settings(CofiSettings)

        states: Hint = Hidden()
        # Without a model, only the length of the phase is read.
        if isinstance(model, ProjectedStudent):
            states = NearestLayers(model.project)

        predictions = Logits(temperature=settings.temperature, divergence="kl")
        terms = ((settings.logits_weight, predictions), (settings.layer_weight, states))
        objective = Objective(tuple((weight, hint) for weight, hint in terms if weight > 0))
        return (settings.to_phase(count_steps(settings.epochs, steps_per_epoch), objective),)

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

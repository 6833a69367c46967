"""Iterative magnitude pruning: the smallest weights of every matrix become 0 during the fine-tuning.

After each step t, each matrix of the encoder's layers keeps its largest weights, a share of

    v_t = v_f + (1 - v_f) (1 - (t - t_0) / (T - t_0 - t_f))^3

where t_0 and t_f are steps at the beginning and the end with the first and the last share. Embeddings
stay frozen. The pruning is unstructured: the exported network has its full shape, with zeros. Its sizes
count non-zeros, and it is not faster. Compare its row with rows of dense networks only with that in mind.

refs: M. Zhu, S. Gupta. To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
Compression. 2017 (the schedule). https://arxiv.org/abs/1710.01878
V. Sanh, T. Wolf, A. Rush. Movement Pruning: Adaptive Sparsity by Fine-Tuning. NeurIPS 2020. https://arxiv.org/abs/2005.07683
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from raycomp.config.budget import BudgetSettings
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.methods.student_models import student_network
from raycomp.methods.student_task import StudentTask
from raycomp.methods.students import StudentMethod, StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.hints import LABELS_ONLY, Objective
from raycomp.training.loop import StepResult


class MagnitudeSettings(StudentSettings):
    """Iterative magnitude pruning (unstructured); one network per budget, whose size counts non-zeros."""

    method: ClassVar[str] = "magnitude"
    title: ClassVar[str] = (
        "Iterative magnitude pruning (unstructured; size counts non-zeros, no speed-up)"
    )

    epochs: float = Field(10.0, gt=0, le=1000, description="Passes over the training split.")
    batch_size: int = Field(16, ge=1, description="Texts of one step, summed over all workers.")
    learning_rate: float = Field(
        3e-5, gt=0, lt=1, description="Largest learning rate. It falls linearly to 0."
    )
    final_warmups: float = Field(
        2.0,
        ge=0,
        description="Length of the last part of the training, in which the share of weights is final, "
        "as a multiple of the warm-up. The first part has the length of the warm-up.",
    )


class MagnitudeTask(StudentTask):
    """Training of one network, whose smallest weights become 0 after each step."""

    def build(self) -> None:
        """Build the network, and the step that prunes it."""
        super().build()
        job = self.context.job
        settings = job.settings(MagnitudeSettings)
        budget = next(b for b in job.budget if b.name == self.plan["budget"])
        final_share = remaining_share(self.context, budget)
        assert final_share is not None  # nosec B101 - only feasible budgets are trained
        warmup = max(1, round(settings.warmup * self.num_steps))
        last = round(settings.final_warmups * warmup)
        train_step = self.step

        def step(index: int, batch: Batch) -> StepResult:
            result = train_step(index, batch)
            share = share_at(index + 1, self.num_steps, warmup, last, final_share)
            # The last step always has the final share, also in a very short training.
            if index + 1 == self.num_steps:
                share = final_share
            keep_largest(cast(ElasticEncoder, self.model), share)
            return result

        self.step = step


class Magnitude(StudentMethod):
    """Iterative magnitude pruning."""

    settings: ClassVar[type[StudentSettings]] = MagnitudeSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {"magnitude-student": MagnitudeTask}

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return all layers: the network keeps its shape."""
        return tuple(range(num_layers))

    def objective(self, context: RunContext) -> Objective:
        """Return the labels."""
        return LABELS_ONLY

    def architecture(self, context: RunContext, budget: BudgetSettings) -> Architecture | None:
        """Return the full architecture; None where zeros cannot meet the budget."""
        if remaining_share(context, budget) is None:
            return None
        return context.space.largest()

    def trained_network(self, context: RunContext, arch: Architecture) -> nn.Module:
        """Return the full network, its embeddings frozen."""
        # Embeddings are not pruned, so they do not have to adapt either.
        model = student_network(context, arch)
        model.embeddings.requires_grad_(False)
        return model

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the cost of a network whose matrices are 0; zeros do not save FLOPs."""
        full = float(context.costs.cost(kind, context.space.largest()))
        if kind == "flops":
            return full
        return full - matrix_weights(context)

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why zeros in the matrices do not meet a budget."""
        least = self.least_cost(context, budget.kind)
        return (
            f"Budget {budget.name}: {budget.kind} <= {context.limit(budget):,.0f} cannot be met by "
            f"magnitude, because the network has {least:,.0f} without its prunable weights. Zeros save "
            "parameters, not FLOPs. Raise the budget, or use another method."
        )

    def describe_start(self, context: RunContext, arch: Architecture) -> str:
        """Return a warning that belongs to every figure of this network."""
        return "The pruning is unstructured: its sizes count non-zeros, and it is not faster."

    def _deployable(self, context: RunContext, budget: str, arch: Architecture) -> Deployable:
        return replace(super()._deployable(context, budget, arch), counts_nonzero=True)


def share_at(step: int, steps: int, first: int, last: int, final_share: float) -> float:
    """Return the share of weights that remain after a step, v_t.

    Args:
        step: Step t, from 1.
        steps: T.
        first: t_0, steps at the beginning in which all weights remain.
        last: t_f, steps at the end with the final share.
        final_share: v_f.
    """
    if step <= first:
        return 1.0
    if step >= steps - last:
        return final_share

    # Cubic: most weights go early, while the network can still adapt.
    left = 1 - (step - first) / (steps - first - last)

    return final_share + (1 - final_share) * left**3


def keep_largest(model: ElasticEncoder, share: float) -> None:
    """Set all but the largest weights of each matrix of the layers to 0, in place.

    Args:
        model: The network.
        share: Share of the weights that remain.
    """
    with torch.no_grad():
        for matrix in _matrices(model):
            count = int(share * matrix.numel())
            smallest = matrix.abs().flatten().topk(matrix.numel() - count, largest=False).indices
            # Through a copy: a matrix can be stored column by column.
            values = matrix.flatten()
            values[smallest] = 0.0
            matrix.copy_(values.view(matrix.shape))


def _matrices(model: ElasticEncoder) -> list[Tensor]:
    return [p for p in model.layers.parameters() if p.ndim == 2]


def matrix_weights(context: RunContext) -> int:
    """Return the number of weights in the matrices of the layers."""
    shape = context.shape
    inner = [heads * shape.head_size for heads in shape.layer_heads]
    attention = sum(4 * shape.hidden_size * width for width in inner)
    return attention + sum(2 * shape.hidden_size * ffn for ffn in shape.layer_ffn)


def remaining_share(context: RunContext, budget: BudgetSettings) -> float | None:
    """Return the share of the matrices' weights that a budget allows; None where it allows none.

    Args:
        context: The run's context.
        budget: The budget.
    """
    full = float(context.costs.cost(budget.kind, context.space.largest()))
    excess = full - context.limit(budget)
    if excess <= 0:
        return 1.0
    # Only matrices are pruned: biases and LayerNorms stay whole.
    share = 1 - excess / matrix_weights(context)
    if budget.kind == "flops" or share <= 0:
        return None
    return share

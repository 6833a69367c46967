"""Kwon et al. on a budget of parameters: post-training pruning by Fisher information, without training.

The importance of a head or neuron is the sum over batches of the squared gradient of its mask (diagonal
Fisher information). Heads and neurons are ranked globally; for every number of heads the rest of the
budget is filled with neurons, and the largest sum of importance wins. Within a layer, units are then
swapped to minimise |sum of the gradients of the pruned|^2. Last, each layer's masks are tuned by least
squares. Differences: the budget is one of this job, not of latency; numbers of heads above the budget are
rejected, which the released code forgets.

refs: W. Kwon, S. Kim, M. Mahoney, J. Hassoun, K. Keutzer, A. Gholami. A Fast Post-Training Pruning
Framework for Transformers. NeurIPS 2022. https://arxiv.org/abs/2204.09656
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raycomp.config.budget import BudgetSettings
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import Importance
from raycomp.encoder.masked import Masks, run_masked
from raycomp.methods.base import Deployable, Run
from raycomp.methods.context import RunContext
from raycomp.methods.kwon_tuning import tune_masks
from raycomp.methods.preparation_costs import record_preparation
from raycomp.methods.pruned_students import PrunedMethod, trim_to_limit, write_pruned
from raycomp.methods.students import StudentSettings
from raycomp.methods.tasks import TrainingTask
from raycomp.training.objectives import label_loss
from raycomp.training.step_cost import TRAINING_PASSES


class KwonSettings(StudentSettings):
    """Kwon et al.: post-training pruning; only `batch_size` of the settings of training is read."""

    method: ClassVar[str] = "kwon"
    title: ClassVar[str] = "Kwon et al. (parameter-budget variant)"
    length_keys: ClassVar[tuple[str, ...]] = ()

    samples: int = Field(2048, ge=1, description="Training texts that the gradients are computed on.")
    tune: bool = Field(True, description="Whether the masks are tuned by least squares.")
    damp: float = Field(
        1.0, ge=0, description="Weight that keeps the tuned masks near 1, in the least squares."
    )


class Kwon(PrunedMethod):
    """Kwon et al. on a budget of parameters."""

    settings: ClassVar[type[StudentSettings]] = KwonSettings
    tasks: ClassVar[Mapping[str, type[TrainingTask]]] = {}

    def compress(self, run: Run) -> list[Deployable]:
        """Prune for each budget; nothing is trained."""
        context = run.context
        context.tokens("train")
        for budget in context.job.budget:
            arch = self.choose_architecture(run, budget)
            files = context.files.student(budget.name)
            if arch is not None and not files.network.exists():
                # Without training, the pruned network is the student.
                files.start.replace(files.network)
        return super().compress(run)

    def prune(self, run: Run, budget: BudgetSettings) -> None:
        """Prune for a budget, in one task."""
        context = run.context
        began = time.perf_counter()
        with run.bar("pruning") as bar:
            run.tasks(prune_for_budget, [(budget.name,)], bar, teacher=True)

        settings = context.job.settings(KwonSettings)
        lengths = context.tokens("train").lengths
        num_tokens = sum(int(lengths[rows].sum()) for rows in _list_rows(context, settings))
        # The tuning runs both networks, and computes the features of the pruned one twice.
        passes = TRAINING_PASSES + (3 if settings.tune else 0)
        record_preparation(
            run,
            "pruning",
            flops=passes * context.token_flops() * num_tokens,
            seconds=time.perf_counter() - began,
            tokens=num_tokens,
            budget=budget.name,
        )

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the lowest limit within which the choice of masks finds one head or neuron.

        It counts the biases and LayerNorms of all layers, also of those that the pruning leaves out.
        """
        head_cost, neuron_cost, fixed = unit_costs(context, kind)
        return fixed + min(head_cost, neuron_cost)

    def explain_infeasible(self, context: RunContext, budget: BudgetSettings) -> str:
        """Return why not even one neuron meets a budget."""
        least = self.least_cost(context, budget.kind)
        return (
            f"Budget {budget.name}: {budget.kind} <= {context.limit(budget):,.0f} cannot be met by kwon, "
            f"which needs {least:,.0f} for one neuron and for the parts of all layers that it does not "
            f"prune. Nearest feasible limit: {least:,.0f}. Raise the budget, or use a method that leaves "
            "out layers (yoco)."
        )

    def plan(self, context: RunContext) -> dict[str, Any]:
        """Return the FLOPs of the gradients; no step is trained."""
        settings = context.job.settings(KwonSettings)
        rows = min(settings.samples, len(context.task.train))
        return {"flops": 3 * rows * context.flops_per_row()[0] * len(context.job.budget)}

    def smallest_batches(self, context: RunContext) -> list[int]:
        """Return no batches: nothing is trained."""
        return []


def prune_for_budget(context: RunContext, budget_name: str) -> None:
    """Prune the teacher for a budget, and write the pruned network."""
    settings = context.job.settings(KwonSettings)
    budget = next(b for b in context.job.budget if b.name == budget_name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = context.teacher().to(device).eval().requires_grad_(False)
    batches = _read_batches(context, settings, device)
    head_grads, neuron_grads = mask_gradients(model, batches)

    limit = context.limit(budget)
    heads, neurons = choose_masks(context, budget, limit, head_grads, neuron_grads)
    # Shared biases and LayerNorms make the cost not quite linear: the last units are trimmed.
    scores = Importance(
        [g.square().sum(0) for g in head_grads], [g.square().sum(0) for g in neuron_grads]
    )
    trim_to_limit(context, budget, heads, neurons, scores)
    if settings.tune:
        # The masks are tuned towards a network that is pruned half as much.
        full = float(context.costs.cost(budget.kind, context.space.largest()))
        half_way = full * intermediate_constraint(limit / full)
        target = choose_masks(context, budget, half_way, head_grads, neuron_grads)
        tune_masks(model, batches, (heads, neurons), target, settings.damp)

    write_pruned(context, budget.name, model, heads, neurons)


def intermediate_constraint(share: float) -> float:
    """Return the share of the network that the tuning aims at: .7071 for a share of .5."""
    return float(share**0.5)


def _read_batches(context: RunContext, settings: KwonSettings, device: torch.device) -> list[Batch]:
    tokens = context.tokens("train")
    return [collate(tokens, rows, context.pad_id).to(device) for rows in _list_rows(context, settings)]


def _list_rows(context: RunContext, settings: KwonSettings) -> list[np.ndarray]:
    """Return the training rows of each batch."""
    plan = TrainPlan(context.tokens("train").lengths, settings.batch_size, context.job.run.seed)
    count = min(plan.steps_per_epoch, max(1, settings.samples // settings.batch_size))
    return [plan.rows(i) for i in range(count)]


def mask_gradients(model: ElasticEncoder, batches: Sequence[Batch]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradient of each batch's loss with respect to each mask.

    Returns:
        Gradients of heads, (batches, heads) for each layer, and of neurons, (batches, ffn).
    """
    config = model.config
    # In eval mode, without dropout: the masks are the only variables.
    device = next(model.parameters()).device
    head_rows = []
    neuron_rows = []

    for batch in batches:
        heads = [torch.ones(h, device=device, requires_grad=True) for h in config.layer_heads]
        neurons = [torch.ones(k, device=device, requires_grad=True) for k in config.layer_ffn]
        output = run_masked(model, batch, Masks(heads, neurons))
        loss = label_loss(output.logits, batch.labels, batch.total)
        gradients = torch.autograd.grad(loss, [*heads, *neurons])
        head_rows.append([g.cpu() for g in gradients[: len(heads)]])
        neuron_rows.append([g.cpu() for g in gradients[len(heads) :]])

    return (
        [torch.stack(rows) for rows in zip(*head_rows, strict=True)],
        [torch.stack(rows) for rows in zip(*neuron_rows, strict=True)],
    )


def choose_masks(
    context: RunContext,
    budget: BudgetSettings,
    limit: float,
    head_grads: Sequence[Tensor],
    neuron_grads: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Return which heads and neurons remain within a limit, after the rearrangement.

    Args:
        context: The run's context.
        budget: The budget, which names the kind of cost.
        limit: Limit of the cost.
        head_grads: Mask gradients, (batches, heads) for each layer.
        neuron_grads: Mask gradients, (batches, ffn) for each layer.
    """
    head_cost, neuron_cost, fixed = unit_costs(context, budget.kind)
    head_scores = torch.cat([g.square().sum(0) for g in head_grads])
    neuron_scores = torch.cat([g.square().sum(0) for g in neuron_grads])
    # The kinds of cost are linear in heads and neurons, beyond the LayerNorms.
    num_heads, num_neurons = fill_budget(
        head_scores.numpy(), neuron_scores.numpy(), head_cost, neuron_cost, limit - fixed
    )
    heads = _split_largest(head_scores, num_heads, [g.shape[1] for g in head_grads])
    neurons = _split_largest(neuron_scores, num_neurons, [g.shape[1] for g in neuron_grads])

    return (
        [rearrange(mask, grads) for mask, grads in zip(heads, head_grads, strict=True)],
        [rearrange(mask, grads) for mask, grads in zip(neurons, neuron_grads, strict=True)],
    )


def unit_costs(context: RunContext, kind: str) -> tuple[float, float, float]:
    """Return the cost of a head, of a neuron, and of the rest of a network in which no layer is left out.

    Args:
        context: The run's context.
        kind: Kind of cost, such as "params".
    """
    depth = len(context.shape.layer_heads)

    def cost(heads: int, neurons: int) -> float:
        return float(context.costs.cost(kind, Architecture(depth, (heads,) * depth, (neurons,) * depth)))

    head_cost = (cost(2, 1) - cost(1, 1)) / depth
    neuron_cost = (cost(1, 2) - cost(1, 1)) / depth
    return head_cost, neuron_cost, cost(1, 1) - depth * (head_cost + neuron_cost)


def fill_budget(
    heads: np.ndarray, neurons: np.ndarray, head_cost: float, neuron_cost: float, budget: float
) -> tuple[int, int]:
    """Return how many of the best heads and neurons have the largest importance within a budget.

    Args:
        heads: Importance of each head, (heads of all layers,).
        neurons: Importance of each neuron, (neurons of all layers,).
        head_cost: Cost of a head.
        neuron_cost: Cost of a neuron.
        budget: Limit of the summed cost.
    """
    head_sums = np.concatenate([[0.0], np.cumsum(np.sort(heads)[::-1])])
    neuron_sums = np.concatenate([[0.0], np.cumsum(np.sort(neurons)[::-1])])
    best = (0, 0)
    best_sum = -1.0

    for num_heads, head_sum in enumerate(head_sums):
        left = budget - num_heads * head_cost
        # Above the budget; the released code continues.
        if left < 0:
            break
        num_neurons = min(len(neurons), int(left // neuron_cost))
        if head_sum + neuron_sums[num_neurons] > best_sum:
            best_sum = head_sum + neuron_sums[num_neurons]
            best = (num_heads, num_neurons)

    return best


def rearrange(mask: Tensor, gradients: Tensor) -> Tensor:
    """Return a mask with as many units of a layer, whose pruned gradients nearly cancel each other.

    Args:
        mask: True where a unit remains, (units,).
        gradients: Gradient of each batch and unit, (batches, units).
    """
    num_pruned = int((~mask).sum())
    if num_pruned in (0, len(mask)):
        return mask

    # Start with the least important units, as many as are pruned.
    vectors = gradients.T
    order = vectors.square().sum(1).argsort(stable=True).tolist()
    pruned = order[:num_pruned]

    for unit in order[num_pruned:]:
        pruned.append(unit)
        members = vectors[pruned]
        without = (members.sum(0) - members).square().sum(1)
        # The unit whose absence leaves the smallest sum remains in the network.
        del pruned[int(without.argmin())]

    remaining = torch.ones_like(mask)
    remaining[pruned] = False

    return remaining


def _split_largest(scores: Tensor, count: int, sizes: Sequence[int]) -> list[Tensor]:
    """Return True for the largest scores of all layers, split into layers."""
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.topk(count).indices] = True
    return list(mask.split(list(sizes)))

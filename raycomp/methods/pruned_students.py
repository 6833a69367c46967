"""What methods share that prune single heads and neurons of the teacher to meet each budget.

The pruned network is written as `start.safetensors` of a student: its heads and neurons are the
remaining ones of each layer, and its architecture has their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raycomp.config.budget import BudgetSettings
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import Importance, reorder_by_importance
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.students import StudentMethod
from raycomp.storage.files import read_json, write_json
from raycomp.storage.tensors import save_tensors


class PrunedMethod(StudentMethod):
    """A student method whose architecture comes from pruning: it is read from `pruned.json`."""

    def layers(self, context: RunContext, num_layers: int) -> tuple[int, ...]:
        """Return the first layers; the pruned ones are known only after the pruning."""
        return tuple(range(num_layers))

    def prune(self, run: Run, budget: BudgetSettings) -> None:
        """Prune for a budget: write the architecture and the pruned weights with `write_pruned`."""
        raise NotImplementedError(f"method {self.name} does not define prune")

    def choose_architecture(self, run: Run, budget: BudgetSettings) -> Architecture | None:
        """Prune for a budget, unless that is done, and return the architecture."""
        context = run.context
        if self.least_cost(context, budget.kind) > context.limit(budget):
            return None
        if not context.files.student(budget.name).pruned.exists():
            self.prune(run, budget)
        return self.architecture(context, budget)

    def architecture(self, context: RunContext, budget: BudgetSettings) -> Architecture | None:
        """Return the pruned architecture; the largest student of whole layers before the pruning."""
        path = context.files.student(budget.name).pruned
        if not path.exists():
            return super().architecture(context, budget)
        return Architecture.from_json(str(read_json(path)["arch"]))

    def least_cost(self, context: RunContext, kind: str) -> float:
        """Return the cost of a network of one neuron."""
        return float(context.costs.cost(kind, Architecture(1, (0,), (1,))))

    def describe_start(self, context: RunContext, arch: Architecture) -> str:
        """Return how many heads and neurons remain."""
        return (
            f"{sum(arch.heads)} heads and {sum(arch.ffn):,} neurons of the teacher remain, in "
            f"{arch.depth} layers."
        )


def write_pruned(
    context: RunContext,
    budget: str,
    model: ElasticEncoder,
    heads: Sequence[Tensor],
    neurons: Sequence[Tensor],
    project: nn.Module | None = None,
) -> None:
    """Write the remaining part of a network as a student's start weights, and its architecture.

    Args:
        context: The run's context.
        budget: Name of the budget.
        model: The network at full size; it is changed.
        heads: For each layer, True where a head remains, (heads,).
        neurons: For each layer, True where a neuron remains, (ffn,).
        project: Map of hidden states that is trained further with the student (`ProjectedStudent`).
    """
    # Reordering and saving need the CPU.
    model = model.cpu()
    # A stable sort puts the remaining units in front and leaves their order.
    scores = Importance([h.float() for h in heads], [n.float() for n in neurons])
    reorder_by_importance(model, scores)
    counts = [(int(h.sum()), int(n.sum())) for h, n in zip(heads, neurons, strict=True)]
    layers = tuple(i for i, (h, n) in enumerate(counts) if h or n)
    arch = Architecture(
        len(layers),
        tuple(counts[i][0] for i in layers),
        tuple(counts[i][1] for i in layers),
        layers,
    )

    files = context.files.student(budget)
    weights = model.extract(arch).state_dict()
    if project is not None:
        weights = {f"student.{key}": value for key, value in weights.items()}
        weights |= {f"project.{key}": value.cpu() for key, value in project.state_dict().items()}
    save_tensors(files.start, weights)
    # The student is a network of its own, whose layers count from 0.
    student = Architecture(arch.depth, arch.heads, arch.ffn)
    write_json(files.pruned, {"arch": student.to_json(), "layers": list(layers)})


def trim_to_limit(
    context: RunContext,
    budget: BudgetSettings,
    heads: Sequence[Tensor],
    neurons: Sequence[Tensor],
    scores: Importance,
) -> None:
    """Remove the least important neurons, then heads, until the network is within its budget.

    Args:
        context: The run's context.
        budget: The budget.
        heads: Whether each head remains; changed in place.
        neurons: Whether each neuron remains; changed in place.
        scores: Importance of each unit.
    """
    limit = context.limit(budget)
    # Neurons first: they are small, so little of the budget stays unused.
    units = [
        (float(scores.neurons[i][j]), neurons[i], j)
        for i in range(len(neurons))
        for j in np.flatnonzero(neurons[i].numpy())
    ]
    units.sort(key=lambda unit: unit[0])
    units += sorted(
        (
            (float(scores.heads[i][j]), heads[i], j)
            for i in range(len(heads))
            for j in np.flatnonzero(heads[i].numpy())
        ),
        key=lambda unit: unit[0],
    )

    for _, remaining, j in units:
        if cost_of_masks(context, budget.kind, heads, neurons) <= limit:
            return
        remaining[int(j)] = False


def cost_of_masks(
    context: RunContext, kind: str, heads: Sequence[Tensor], neurons: Sequence[Tensor]
) -> float:
    """Return the cost of the network of the remaining heads and neurons."""
    counts = [(int(h.sum()), int(n.sum())) for h, n in zip(heads, neurons, strict=True)]
    remaining = [(h, n) for h, n in counts if h or n] or [(0, 1)]
    arch = Architecture(len(remaining), tuple(h for h, _ in remaining), tuple(n for _, n in remaining))
    return float(context.costs.cost(kind, arch))


def all_ones(context: RunContext) -> tuple[list[Tensor], list[Tensor]]:
    """Return a mask of ones per layer: of the heads, and of the neurons."""
    shape = context.shape
    heads = [torch.ones(count) for count in shape.layer_heads]
    return heads, [torch.ones(count) for count in shape.layer_ffn]

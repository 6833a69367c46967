"""OFA's progressive shrinking: its phases, and the sort of heads and neurons before each of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.importance import Importance, reorder_by_importance
from raycomp.encoder.layers import Layer
from raycomp.search.space import SearchSpace

DIMENSIONS = ("depth", "heads", "ffn")
"""Order in which the dimensions become elastic."""


@dataclass(frozen=True)
class OfaPhase:
    """One phase of progressive shrinking.

    Attributes:
        dimension: The dimension that it opens.
        space: Choices that are open.
    """

    dimension: str
    space: SearchSpace


def plan_phases(space: SearchSpace) -> list[OfaPhase]:
    """Return the phases: each opens one smaller choice; earlier dimensions stay open."""
    largest = {name: getattr(space, name)[-1:] for name in DIMENSIONS}
    phases = []
    for name in DIMENSIONS:
        choices = getattr(space, name)
        for count in range(2, len(choices) + 1):
            largest[name] = choices[-count:]
            phases.append(OfaPhase(name, space.narrowed(**largest)))
    # A space of one network has nothing to open.
    return phases or [OfaPhase("depth", space)]


def sort_units(model: ElasticEncoder, phase: OfaPhase) -> None:
    """Sort the heads or neurons of each layer by importance, inside bands; the function is unchanged.

    The band of a choice has the units that it adds to the next smaller open one.

    Args:
        model: The super-network, at full size.
        phase: The phase that begins. Nothing is sorted before a phase of depth.
    """
    if phase.dimension == "depth":
        return

    # The norms change in training, so they are measured at each phase.
    importance = measure_norms(model)
    # The choice that this phase opens splits the band of the smallest choice before it.
    bounds = getattr(phase.space, phase.dimension)[1:]
    heads = [_rank_in_order(scores) for scores in importance.heads]
    neurons = [_rank_in_order(scores) for scores in importance.neurons]
    if phase.dimension == "heads":
        heads = [rank_inside_bands(scores, bounds) for scores in importance.heads]
    else:
        neurons = [rank_inside_bands(scores, bounds) for scores in importance.neurons]

    reorder_by_importance(model, Importance(heads, neurons))


def measure_norms(model: ElasticEncoder) -> Importance:
    """Return the L1 norm of the weights that read each head and each neuron."""
    heads = []
    neurons = []
    for module in model.layers:
        layer = cast(Layer, module)
        neurons.append(layer.down.weight.detach().abs().sum(0).cpu())
        # The columns of the output projection read the heads.
        columns = layer.output.weight.detach().abs().sum(0).cpu()
        heads.append(columns.view(layer.heads, layer.head_size).sum(1))
    return Importance(heads, neurons)


def rank_inside_bands(scores: Tensor, bounds: Sequence[int]) -> Tensor:
    """Return scores by which units are sorted only inside their band, (units,).

    Args:
        scores: Importance of each unit, (units,).
        bounds: Ends of the bands, ascending; the last one is the number of units.
    """
    ranks = torch.empty(len(scores))
    for first, last in itertools.pairwise((0, *bounds)):
        order = scores[first:last].argsort(descending=True, stable=True)
        # An earlier band has larger numbers: its units stay in front.
        ranks[first + order] = torch.arange(len(scores) - first, len(scores) - last, -1.0)
    return ranks


def _rank_in_order(scores: Tensor) -> Tensor:
    """Return scores that leave the units in their order, (units,)."""
    return torch.arange(len(scores), 0, -1.0)

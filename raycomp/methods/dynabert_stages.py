"""The stages of DynaBERT: their networks, and what each stage learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycomp.config.job import Job
from raycomp.encoder.architecture import Architecture
from raycomp.methods.elastic_method import StatelessSampler
from raycomp.search.space import SearchSpace
from raycomp.training.hints import LABELS_ONLY, Hidden, Logits, Objective

STAGES = ("width", "depth", "final")


def matched_states(layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pair state i of n layers with the teacher's state floor(i L / n); the last state with the last."""
    depth = len(layers)
    return [(i, i * teacher_layers // depth) for i in range(depth + 1)]


def stage_objective(stage: str, hidden_weight: float, width_labels: bool) -> Objective:
    """Return the objective of a stage.

    Args:
        stage: One of `STAGES`.
        hidden_weight: Weight of the hidden states in the width stage.
        width_labels: Whether the width stage has the labels only.
    """
    if stage == "final" or (stage == "width" and width_labels):
        return LABELS_ONLY
    # Small in the width stage, where a narrow network cannot match every state.
    weight = 1.0
    if stage == "width":
        weight = hidden_weight
    states = Hidden(map=matched_states, over_layers="sum")
    return Objective(((1.0, Logits()), (weight, states)))


def list_networks(
    space: SearchSpace, widths: Sequence[float], depths: Sequence[float]
) -> list[Architecture]:
    """Return the networks of all pairs of depth and width, largest first (12 in the paper)."""
    networks = []
    for depth_share in depths:
        depth = max(1, round(depth_share * space.num_layers))
        layers = tuple(i * space.num_layers // depth for i in range(depth))
        for width in widths:
            heads = max(1, round(width * space.heads[-1]))
            ffn = max(1, round(width * space.ffn[-1]))
            networks.append(Architecture(depth, (heads,) * depth, (ffn,) * depth, layers))
    return list(dict.fromkeys(networks))


class DynabertSampler(StatelessSampler):
    """Returns all networks of a stage in every step.

    Args:
        space: The search space, of which only the full size matters.
        networks: The networks.
    """

    def __init__(self, space: SearchSpace, networks: Sequence[Architecture]) -> None:
        super().__init__(space)
        self._networks = list(networks)

    def ask(self, step: int) -> list[Architecture]:
        """Return all networks."""
        return list(self._networks)


def build_sampler(job: Job, plan: dict[str, Any]) -> DynabertSampler:
    """Return the sampler of a training plan."""
    networks = [Architecture.from_json(text) for text in plan["sampler"]["networks"]]
    return DynabertSampler(SearchSpace.from_dict(plan["space"]), networks)

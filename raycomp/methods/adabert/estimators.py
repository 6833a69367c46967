"""Estimators of the gradient of P_alpha: which operations of an edge run in a step of the search."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raycomp.methods.adabert.cell import EdgeExecution
from raycomp.methods.adabert.gumbel import Sample, straight_through
from raycomp.methods.adabert.structure import CONVOLUTIONS


def plan_edges(
    sample: Sample, candidates: Sequence[str], estimator: str, seed: int
) -> list[EdgeExecution]:
    """Return the operations that run on each edge of a sample.

    The edge carries the output of the sampled operation. P_o learns from the comparison of this
    operation with others, and the estimator chooses these:

    - "full" runs every candidate: the straight-through estimator of the paper (Eq. 6).
    - "sampled" runs the sampled operation only. Its y has the gradient of its output; the others have
      none.
    - "contrast" runs the sampled operation, the operations without weights, which cost little, and one
      random convolution. y is the softmax over these.

    Args:
        sample: Draw from P_alpha.
        candidates: Names of the operations, in the order of the sample's columns.
        estimator: "full", "sampled" or "contrast".
        seed: Seed of the convolutions that "contrast" draws.
    """
    rng = random.Random(seed)  # nosec B311  # no secret depends on it
    executions = []
    for edge, name in enumerate(sample.structure.operations):
        if estimator == "sampled":
            y = sample.operations[edge, candidates.index(name)].unsqueeze(0)
            executions.append(EdgeExecution(name, (), y))
            continue

        others = [c for c in candidates if c != name]
        if estimator == "contrast":
            convolutions = [c for c in others if c in CONVOLUTIONS]
            rival = rng.choice(convolutions) if convolutions else None
            others = [c for c in others if c not in CONVOLUTIONS or c == rival]
        columns = [candidates.index(c) for c in (name, *others)]
        y = straight_through(sample.scores[edge, columns])
        executions.append(EdgeExecution(name, tuple(others), y))
    return executions

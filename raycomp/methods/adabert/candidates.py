"""The structures of which a trial deploys one: drawn after the search, scored with inherited weights.

P_alpha says which structures the search believes in. Half of the candidates are drawn from it, and half
uniformly, so a P_alpha that learned nothing costs little. Each takes its weights from the parent, its
running statistics are measured again, and it is scored on the selection split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raycomp.arithmetic import ceil_div
from raycomp.methods.adabert.child_scores import score_child, selection_objective
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.gumbel import Distribution
from raycomp.methods.adabert.recalibration import recalibrate, recalibration_batches
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, random_structure
from raycomp.methods.adabert.student import Child
from raycomp.methods.augmentation import write_missing_files
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.method_layout import TrialLayout
from raycomp.storage.rows import row_of_json
from raycomp.storage.tensors import load_tensors, load_weights

BLOCK = 8
"""Candidates that one task scores."""

CANDIDATE_BATCHES = 4
"""Training batches that the running statistics of a candidate are measured on."""

CANDIDATE_STREAM = 2
"""Tells the draws of the candidates from other draws of the same seed."""


def draw_candidates(distribution: Distribution, count: int, seed: int) -> list[Structure]:
    """Return different structures: the most likely one, `count` from P_alpha, and `count` uniform ones.

    Fewer are returned where the space or P_alpha has fewer.

    Args:
        distribution: P_alpha after the search.
        count: Structures from each source.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng([seed, CANDIDATE_STREAM])
    most_likely = distribution.most_likely()
    structures = {most_likely.id: most_likely}

    for draw in (_draw_from, _draw_uniformly):
        limit = len(structures) + count
        # A certain P_alpha draws the same structure again and again.
        for _ in range(20 * count):
            if len(structures) >= limit:
                break

            structure = draw(distribution, rng)
            if set(structure.operations) != {"zero"}:
                structures.setdefault(structure.id, structure)

    return list(structures.values())


def _draw_uniformly(distribution: Distribution, rng: np.random.Generator) -> Structure:
    """Return a structure of the space of P_alpha, each with the same probability."""
    max_layers = len(distribution.layers)
    seed = int(rng.integers(2**31))
    return random_structure(max_layers, distribution.nodes, distribution.candidates, seed)


@torch.no_grad()
def _draw_from(distribution: Distribution, rng: np.random.Generator) -> Structure:
    """Return a structure drawn from P_alpha."""
    depths = torch.softmax(distribution.layers.double(), -1).numpy()
    edges = torch.softmax(distribution.operations.double(), -1).numpy()

    layers = 1 + int(rng.choice(len(depths), p=depths))
    names = tuple(distribution.candidates[int(rng.choice(len(edge), p=edge))] for edge in edges)
    return Structure(layers, names, distribution.nodes)


def load_distribution(data: DistillationData, trial: TrialLayout, layers: int) -> Distribution:
    """Return P_alpha of a finished search.

    Args:
        data: The run's distillation data.
        trial: Paths of the trial.
        layers: K_max.
    """
    settings = data.job.settings(AdabertSettings)
    distribution = Distribution(layers, settings.nodes, settings.operations)
    load_weights(distribution, trial.p_alpha)
    return distribution


def score_candidates(
    run: Run, data: DistillationData, name: str, structures: Sequence[Structure]
) -> list[dict[str, Any]]:
    """Score structures with the parent's weights, in parallel; those of an earlier call are read.

    Args:
        run: The method's handle.
        data: The run's distillation data.
        name: Name of the trial.
        structures: Different structures.

    Returns:
        Rows of table `evaluations`, which are also written there.
    """
    trial = data.layout.trial(name)
    write_json(trial.candidates, {"structures": [structure.to_json() for structure in structures]})

    files = [trial.candidate_scores(block) for block in range(ceil_div(len(structures), BLOCK))]
    write_missing_files(run, data, "candidates", write_scores, files, leading=(name,))

    rows = [row for path in files for row in read_json(path)["rows"]]
    run.record_evaluations(f"adabert-{name}-candidates", [row_of_json(row) for row in rows])
    return rows


def write_scores(context: RunContext, name: str, block: int, path: str) -> None:
    """Score one block of candidates."""
    data = DistillationData.of(context)
    trial = data.layout.trial(name)
    texts = read_json(trial.candidates)["structures"][block * BLOCK : (block + 1) * BLOCK]
    parent = load_tensors(trial.parent)
    weights_id = file_hash(trial.parent)
    batches = recalibration_batches(data, data.job.run.seed, CANDIDATE_BATCHES)

    rows = []
    for text in texts:
        child = Child(data.student_shape, Structure.from_json(text))
        child.load_state_dict({key: parent[key] for key in child.state_dict()})
        recalibrate(child, batches)
        rows.append(score_child(data, child, weights_id, "inherited").to_json())
    write_json(data.run_dir / path, {"rows": rows})


def best_rows(
    data: DistillationData, rows: Sequence[dict[str, Any]], count: int, beta: float, layers: int
) -> list[dict[str, Any]]:
    """Return the rows of the best structures, best first; see `selection_objective`."""
    return sorted(rows, key=lambda row: selection_objective(data, row, beta, layers))[:count]

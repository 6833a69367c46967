"""The choice of a trial's structure after the search, by successive halving.

All candidates are scored with inherited weights. The best are trained for a short time, the better half
of them again, and so on. Scores after training decide between structures whose inherited scores are
nearly equal.

refs: K. Jamieson, A. Talwalkar. Non-stochastic Best Arm Identification and Hyperparameter Optimization.
AISTATS 2016. https://arxiv.org/abs/1502.07943
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raycomp.methods.adabert.candidates import (
    best_rows,
    draw_candidates,
    load_distribution,
    score_candidates,
)
from raycomp.methods.adabert.child_scores import score_child
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, parse_structure_setting
from raycomp.methods.adabert.student import Child
from raycomp.methods.base import Run
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.method_layout import TrialLayout
from raycomp.storage.rows import row_of_json
from raycomp.storage.tensors import load_weights

ROUND = "adabert-round"


def round_sizes(settings: AdabertSettings) -> list[int]:
    """Return the number of finalists of each round; empty where nothing is chosen by training.

    >>> round_sizes(AdabertSettings(finalists=4))
    [4, 2]
    """
    if not settings.candidates or settings.structure is not None or not settings.child_epochs:
        return []
    sizes = []
    count = min(settings.finalists, settings.candidates)
    while count > 1:
        sizes.append(count)
        count //= 2
    return sizes


def choose_structure(run: Run, data: DistillationData, plan: Mapping[str, Any]) -> None:
    """Choose the structure of the child, where it is not the most probable one; write the choice.

    Args:
        run: The method's handle.
        data: The run's distillation data.
        plan: Plan of the trial's trainings: trial, gamma, beta, layers and seed.
    """
    settings = data.job.settings(AdabertSettings)
    files = data.layout.trial(plan["trial"])
    if files.choice.exists():
        return

    if settings.structure is not None and settings.child == "inherited":
        structure = parse_structure_setting(
            settings.structure, plan["layers"], settings.nodes, settings.operations
        )
        _write_choice(files, structure.to_json(), None, 1)
    elif settings.candidates and settings.structure is None:
        _choose_among_candidates(run, data, plan)


def _choose_among_candidates(run: Run, data: DistillationData, plan: Mapping[str, Any]) -> None:
    settings = data.job.settings(AdabertSettings)
    files = data.layout.trial(plan["trial"])

    distribution = load_distribution(data, files, plan["layers"])
    structures = draw_candidates(distribution, settings.candidates, plan["seed"])
    rows = score_candidates(run, data, plan["trial"], structures)
    num_scored = len(rows)

    weights = None
    for number, size in enumerate(round_sizes(settings)):
        finalists = best_rows(data, rows, size, plan["beta"], plan["layers"])
        rows = _train_round(run, data, plan, number, [row["arch"] for row in finalists])
        num_scored += len(rows)

    best = best_rows(data, rows, 1, plan["beta"], plan["layers"])[0]

    if sizes := round_sizes(settings):
        weights = files.finalist(len(sizes) - 1, best["arch_id"])

    _write_choice(files, best["arch"], weights, num_scored)
    _remove_losers(files, weights)


def _train_round(
    run: Run, data: DistillationData, plan: Mapping[str, Any], number: int, archs: Sequence[str]
) -> list[dict[str, Any]]:
    """Train and score the finalists of a round; a finished round is read.

    Returns:
        Rows of table `evaluations`, which are also written there.
    """
    name = plan["trial"]
    files = data.layout.trial(name)
    scores = files.round_scores(number)

    if not scores.exists():
        round_plan = {**plan, "round": number, "archs": list(archs)}
        run.train(f"{ROUND}.{name}-r{number}", round_plan)

        scored = [_score_finalist(data, files, number, arch) for arch in archs]
        write_json(scores, {"rows": scored})

    rows: list[dict[str, Any]] = read_json(scores)["rows"]
    run.record_evaluations(f"adabert-{name}-round-{number}", [row_of_json(row) for row in rows])
    return rows


def _score_finalist(data: DistillationData, files: TrialLayout, number: int, arch: str) -> dict[str, Any]:
    """Return the row of a finalist after a round."""
    child = Child(data.student_shape, Structure.from_json(arch))
    path = files.finalist(number, child.structure.id)
    load_weights(child, path)
    return score_child(data, child.eval(), file_hash(path), "finalist").to_json()


def _write_choice(files: TrialLayout, arch: str, weights: Path | None, num_scored: int) -> None:
    choice = {
        "structure": json.loads(arch),
        "weights": None if weights is None else str(weights.relative_to(files.path)),
        "evaluations": num_scored,
    }
    write_json(files.choice, choice)


def _remove_losers(files: TrialLayout, winner: Path | None) -> None:
    """Remove the weights of the finalists that were not chosen."""
    for path in files.path.glob("round-*/*.safetensors"):
        if path != winner:
            path.unlink()

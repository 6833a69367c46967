"""What `raycomp plan` prints of AdaBERT: sizes, steps, and FLOPs of training."""

from __future__ import annotations

import math
from typing import Any

import torch

from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.efficiency import operation_macs, operation_params
from raycomp.methods.adabert.finalists import round_sizes
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.structure import Structure, cell_edges
from raycomp.methods.adabert.trials import Trial, list_trials
from raycomp.methods.context import RunContext


def plan_sweep(context: RunContext) -> dict[str, Any]:
    """Return trials, steps, rows of text, sizes of the student, and FLOPs of training."""
    job = context.job
    settings = job.settings(AdabertSettings)
    trials = list_trials(job)
    num_rows = len(context.task.train)
    steps_per_epoch = math.ceil(num_rows / settings.batch_size)
    max_layers = max(trial.layers for trial in trials)
    training, scoring = _planned_flops(context, settings, trials)
    candidates = len(settings.operations) ** len(cell_edges(settings.nodes))
    return {
        "structures": candidates * max_layers,
        "params": _student_sizes(context, settings, max_layers),
        "trials": len(trials),
        "search_steps": round(settings.epochs * steps_per_epoch) if settings.has_search else 0,
        "candidates": _count_candidates(settings),
        "round_steps": [
            round(count * settings.finalist_epochs * steps_per_epoch) for count in round_sizes(settings)
        ],
        "child_steps": round(settings.child_epochs * steps_per_epoch),
        "rows": num_rows * (1 + job.augment.copies),
        "flops": training,
        # `run.equal_compute` sets the training; scoring is extra for all methods.
        "scoring_flops": scoring,
    }


def _student_sizes(context: RunContext, settings: AdabertSettings, max_layers: int) -> list[int]:
    """Return the number of parameters of the smallest and of the largest student."""
    # Imported here: transformers takes seconds, and training workers compile no child.
    from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
    from raycomp.methods.adabert.compiler import compiled_config

    shape = DistillationData.of(context).student_shape
    sizes = []
    for layers, choose in ((1, min), (max_layers, max)):
        operation = choose(settings.operations, key=lambda o: operation_params(o, settings.width))
        edges = cell_edges(settings.nodes)
        structure = Structure(layers, (operation,) * len(edges), settings.nodes)
        # Shapes are enough, so no memory is taken.
        with torch.device("meta"):
            model = RaycompCnnForSequenceClassification(compiled_config(shape, structure))
        sizes.append(sum(p.numel() for p in model.parameters()))
    return sizes


def _planned_flops(
    context: RunContext, settings: AdabertSettings, trials: list[Trial]
) -> tuple[float, float]:
    """Return about how many FLOPs training takes (the teacher's outputs, search, children), and scoring.

    A step takes three times its forward pass. A sampled structure and the child count as the mean over
    operations and depths.
    """
    full, _ = context.flops_per_row()
    length = context.flops_length
    macs = [operation_macs(operation, settings.width, length) for operation in settings.operations]
    cell = 2 * sum(macs) / len(macs) * len(cell_edges(settings.nodes)) * context.mean_length_share()
    mean_length = length * context.mean_length_share()
    projection = 2 * settings.embedding * settings.width * mean_length

    extra = {"sampled": 0.0, "contrast": 1.0, "full": len(settings.operations) - 1.0}
    # An update of P_alpha on held-out rows has no gradients of weights.
    per_alpha_step = extra[settings.estimator]
    if settings.alpha_updates:
        per_alpha_step = settings.alpha_updates * (2 + extra[settings.estimator])
    per_epoch = 3 + per_alpha_step * (1 - settings.alpha_warmup)
    search = settings.epochs * per_epoch if settings.has_search else 0.0
    children = settings.child_epochs + settings.finalist_epochs * sum(round_sizes(settings))

    num_rows = len(context.task.train)

    scored = _count_candidates(settings) * len(context.task.selection)

    training = full * num_rows * (1 + context.job.augment.copies)
    scoring = 0.0
    for trial in trials:
        student = cell * (trial.layers + 1) / 2 + projection
        training += student * num_rows * (search + 3 * children)
        scoring += student * scored
    return training, scoring


def _count_candidates(settings: AdabertSettings) -> int:
    """Return how many structures are scored after a search."""
    if settings.structure is not None or not settings.candidates:
        return 0
    return 1 + 2 * settings.candidates

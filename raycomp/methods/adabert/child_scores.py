"""Scores of children on the selection split, as rows of table `evaluations`."""

from __future__ import annotations

import time
from typing import Any

from raycomp.encoder.interface import logits_of
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.efficiency import operation_costs
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.step import PAPER_BATCH
from raycomp.methods.adabert.structure import Structure
from raycomp.methods.adabert.student import Child
from raycomp.methods.scoring import score_forward
from raycomp.storage.rows import EvaluationRow


def score_child(
    data: DistillationData, child: Child, weights_id: str, weights: str | None = None
) -> EvaluationRow:
    """Score a child on the selection split, in its compiled form.

    Args:
        data: The run's distillation data.
        child: The child.
        weights_id: Hash of the file that its weights come from.
        weights: Value of the column `weights`.
    """
    # Imported here: transformers takes seconds, and training workers compile no child.
    from raycomp.methods.adabert.compiler import compile_child, compiled_macs

    began = time.perf_counter()
    model = compile_child(child)
    score = score_forward(data, lambda batch: logits_of(model, batch), "selection")

    row = EvaluationRow(
        arch_id=child.structure.id,
        arch=child.structure.to_json(),
        split="selection",
        precision="fp32",
        metric=data.primary,
        value=score.values[data.primary],
        loss=score.loss,
        examples=score.examples,
        params=sum(p.numel() for p in model.parameters()),
        flops=2.0 * compiled_macs(model.config, data.flops_length),
        seconds=time.perf_counter() - began,
        weights=weights,
    )
    return row.complete(data.run_dir.name, "adabert", weights_id)


def selection_objective(data: DistillationData, row: dict[str, Any], beta: float, layers: int) -> float:
    """Return the objective by which candidates are compared: label loss plus beta times L_E (Eq. 1).

    The loss is less noisy than the metric, which counts rows near the decision boundary.

    Args:
        data: The run's distillation data.
        row: Row of table `evaluations`.
        beta: Weight of the efficiency loss.
        layers: K_max.
    """
    settings = data.job.settings(AdabertSettings)
    shape = data.student_shape

    costs = operation_costs(settings.operations, shape.width, shape.max_positions, settings.normalisation)
    cost_of = dict(zip(settings.operations, costs.tolist(), strict=True))

    structure = Structure.from_json(row["arch"])
    efficiency = structure.layers / layers * sum(cost_of[name] for name in structure.operations)  # Eq. 5
    return float(row["loss"]) + beta / PAPER_BATCH * efficiency

"""Selection scores of trained models: the row of table `evaluations`, and the outcome on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Forward, Run
from raycomp.methods.context import RunContext
from raycomp.storage.files import file_hash, write_json
from raycomp.storage.rows import EvaluationRow


@dataclass(frozen=True)
class ScoredModel:
    """A trained model as its row of `evaluations` describes it.

    Attributes:
        forward: Forward function.
        weights: File with its weights.
        arch_id: Id of its architecture.
        arch: Its architecture as JSON.
        params: Parameters of the whole model.
        flops: FLOPs of one sequence.
        is_cut: Whether it reads tokens of the cut vocabulary.
    """

    forward: Forward
    weights: Path
    arch_id: str
    arch: str
    params: int
    flops: float
    is_cut: bool = False

    @classmethod
    def of_network(
        cls, context: RunContext, arch: Architecture, forward: Forward, weights: Path
    ) -> ScoredModel:
        """Return an encoder with its architecture's parameters and FLOPs."""
        params = int(context.costs.cost("params", arch))
        flops = float(context.costs.cost("flops", arch))
        return cls(forward, weights, arch.id, arch.to_json(), params, flops, arch.table.is_cut)


def score_model(run: Run, model: ScoredModel, began: float) -> dict[str, Any]:
    """Score a model on the selection split, and return its row of `evaluations` without `created_at`.

    Args:
        run: The method's handle.
        model: The model.
        began: Time at which its scoring began, of `time.perf_counter`.
    """
    context = run.context
    score = run.score(model.forward, "selection", is_cut=model.is_cut)
    row = EvaluationRow(
        arch_id=model.arch_id,
        arch=model.arch,
        split="selection",
        precision="fp32",
        metric=context.primary,
        value=score.values[context.primary],
        loss=score.loss,
        examples=score.examples,
        params=model.params,
        flops=model.flops,
        seconds=time.perf_counter() - began,
        run=context.run_dir.name,
        method=context.method,
        weights_id=file_hash(model.weights),
    )
    return row.to_row()


def record_outcome(run: Run, part: str, outcome: Path, row: dict[str, Any], **figures: Any) -> None:
    """Write a model's row of `evaluations`, then its outcome: a model with an outcome is complete.

    Args:
        run: The method's handle.
        part: File of the table that the row is written to.
        outcome: File of the outcome.
        row: The row.
        **figures: Further values of the outcome.
    """
    run.record_evaluation(part, {**row, "created_at": datetime.now(UTC)})
    write_json(outcome, {**row, **figures})


def forget_outcome(outcome: Path, part: str, parts: set[str], subject: str) -> list[str]:
    """Delete the outcome of a model whose row is missing; return the message on it, if so.

    Args:
        outcome: File of the outcome.
        part: File of table `evaluations` with the model's row.
        parts: Files of the table that exist.
        subject: The model in words.
    """
    if not outcome.exists() or part in parts:
        return []
    outcome.unlink()
    return [f"The evaluation of {subject} is missing: it is scored again."]

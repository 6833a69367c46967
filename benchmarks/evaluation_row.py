"""Rows of table `evaluations` from evaluators that compute nothing."""

from __future__ import annotations

from typing import Any

from raycomp.encoder.architecture import Architecture


def make_evaluation_row(
    arch: Architecture, split: str, precision: str, *, value: float, seconds: float
) -> dict[str, Any]:
    """Return the answer of an evaluator for one architecture.

    Args:
        arch: Architecture that was asked for.
        split: Name of the split.
        precision: "fp32" or "bf16".
        value: Score from 0 to 1.
        seconds: Seconds of the evaluation.
    """
    return {
        "arch_id": arch.id,
        "arch": arch.to_json(),
        "split": split,
        "precision": precision,
        "metric": "accuracy",
        "value": value,
        "loss": 1 - value,
        "examples": 100,
        "params": 1,
        "flops": 1.0,
        "seconds": seconds,
    }
